"""phase_norm: a norm over complex channels that keeps phases, and modReLU behind it."""

import math
from types import ModuleType

import torch
from torch import Tensor

from .. import checks
from ..backend import resolve
from ..phase_linear.reference import EPSILON
from . import blocked, native, reference
from .configs import WIDEST


def phase_norm(
    x: Tensor,
    weight: Tensor,
    threshold: Tensor | None = None,
    *,
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """RMS norm of complex channels, ``z = w · x / √(mean_d |x_d|² + eps)``; then modReLU, given a threshold.

    The norm divides a row by one real number, so phases stay and a turn of the whole row turns the output by
    the same angle. modReLU, ``relu(m + t) · z / m`` with ``m = √(|z|² + ε²)`` and ε = 1e-4, shortens numbers
    and turns none: value and gradient are finite at 0.

    A row is read once and written once, in either direction; nothing but x is kept for the backward. Rows of
    more than 4,096 channels run in the torch form on a GPU too.

    Args:
        x: ``[…, D, 2]``, real and imaginary part last; float32, bfloat16, float16 (float64 on the torch
            backends). Any strides.
        weight: ``[D]``, real; a negative one turns its channel by half a turn.
        threshold: ``[D]``, of modReLU; −∞ switches a channel off; None for the norm alone.
        eps: added to the mean square, above 0.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``[…, D, 2]`` in x's dtype. Sums are formed in float32 (float64 for float64).

    Raises:
        ValueError: a shape, dtype, device, eps or backend that does not fit.

    Source: B. Zhang and R. Sennrich, "Root mean square layer normalization", 2019, on moduli; modReLU of
    M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", 2016.
    """
    checks.dtype("x", x, checks.FLOATS)
    if x.ndim < 2 or x.shape[-1] != 2:
        raise ValueError(f"x has shape {list(x.shape)}; allowed is [..., D, 2].")
    checks.parameter("weight", weight, x, (x.shape[-2],))
    if threshold is not None:
        checks.parameter("threshold", threshold, x, (x.shape[-2],))
    if not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps}; it must be above 0 and finite.")
    name = resolve(backend, x, "phase_norm")
    if name == "reference":
        return reference.phase_norm(x, weight, threshold, eps)
    return _norm(x, weight, threshold, eps, name)


def _form(backend: str, x: Tensor) -> ModuleType:
    if backend == "triton" and x.shape[-2] <= WIDEST:
        from . import fused

        return fused
    return native if backend == "native" else blocked


def _finite(threshold: Tensor | None, x: Tensor) -> Tensor | None:
    # −∞ switches a channel off, and times 0 would be NaN; t/m is finite where m ≥ ε.
    if threshold is None:
        return None
    dtype = checks.state_dtype(x)
    return threshold.to(dtype).clamp(min=torch.finfo(dtype).min * EPSILON / 2)


@torch.library.custom_op("phasefield::phase_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float, backend: str) -> Tensor:
    return _form(backend, x).forward(x, weight, _finite(threshold, x), eps)


@_norm.register_fake
def _(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float, backend: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("phasefield::phase_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _form(backend, x).backward(grad, x, weight, _finite(threshold, x), eps)
    # An op returns tensors only: an empty one stands for no gradient.
    return tuple(x.new_empty(0) if g is None else g for g in grads)


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    by_channel = x.new_empty(x.shape[-2], dtype=checks.state_dtype(x))
    return (
        x.new_empty(x.shape),
        by_channel,
        x.new_empty(0) if threshold is None else torch.empty_like(by_channel),
    )


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, weight, threshold, ctx.eps, ctx.backend = inputs
    ctx.save_for_backward(x, weight, threshold)


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, threshold = ctx.saved_tensors
    grad_x, grad_weight, grad_threshold = _norm_backward(grad, x, weight, threshold, ctx.eps, ctx.backend)
    grad_threshold = None if threshold is None else grad_threshold.to(threshold.dtype)
    return grad_x, grad_weight.to(weight.dtype), grad_threshold, None, None


_norm.register_autograd(_differentiate, setup_context=_setup_context)
