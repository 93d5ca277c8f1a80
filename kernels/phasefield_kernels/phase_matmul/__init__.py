"""phase_matmul: complex matrix products, batched and broadcast as torch.matmul's."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast, under_autocast
from ..backend import resolve
from ..complex_product.arguments import algorithm_named
from . import blocked, reference


def phase_matmul(a: Tensor, b: Tensor, *, algorithm: str = "direct", backend: str | None = None) -> Tensor:
    """Complex ``a @ b``, with ``torch.matmul``'s rules for vectors, batches and broadcasting.

    Sums are formed in float32 (float64 for float64). Under autocast both are read in its dtype.

    Args:
        a: ``[…, M, K, 2]`` or a vector ``[K, 2]``, real and imaginary part last; float32, bfloat16, float16
            (float64 on the torch backends). Any strides; a repeated batch is not copied.
        b: ``[…, K, N, 2]`` or a vector ``[K, 2]``, in a's dtype.
        algorithm: ``"direct"`` or ``"gauss"``; see :func:`phasefield_kernels.phase_linear`.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``[…, M, N, 2]`` in a's dtype, without the dimension that a vector lacks.

    Raises:
        ValueError: a shape, dtype, device, algorithm or backend that does not fit.
    """
    a, b = under_autocast(a), under_autocast(b)
    _check(a, b)
    algorithm_named(algorithm)
    name = resolve(backend, a)
    left, right = a.unsqueeze(0) if a.ndim == 2 else a, b.unsqueeze(1) if b.ndim == 2 else b
    if name == "reference":
        y = reference.phase_matmul(left, right)
    else:
        y = _matmul(left, right, algorithm, name)
    y = y.squeeze(-3) if a.ndim == 2 else y
    return y.squeeze(-2) if b.ndim == 2 else y


def _check(a: Tensor, b: Tensor) -> None:
    for argument, tensor, wanted in (("a", a, "[..., M, K, 2]"), ("b", b, "[..., K, N, 2]")):
        checks.dtype(argument, tensor, checks.FLOATS)
        if tensor.ndim < 2 or tensor.shape[-1] != 2:
            raise ValueError(
                f"{argument} has shape {list(tensor.shape)}; allowed is {wanted} or a vector [K, 2]."
            )
    checks.dtype("b", b, (a.dtype,))
    checks.device("b", b, a)
    inner = b.shape[0] if b.ndim == 2 else b.shape[-3]
    if inner != a.shape[-2]:
        raise ValueError(f"b has shape {list(b.shape)}; with a of {list(a.shape)}, K must be {a.shape[-2]}.")
    try:
        torch.broadcast_shapes(a.shape[:-3], b.shape[:-3])
    except RuntimeError:
        raise ValueError(
            f"b has shape {list(b.shape)}, whose batch does not broadcast with a's {list(a.shape)}."
        ) from None


@torch.library.custom_op("phasefield::phase_matmul", mutates_args=())
def _matmul(a: Tensor, b: Tensor, algorithm: str, backend: str) -> Tensor:
    if backend == "triton":
        from . import fused as form
    else:
        form = blocked
    with outside_autocast(a):
        return form.forward(a, b, algorithm)


@_matmul.register_fake
def _(a: Tensor, b: Tensor, algorithm: str, backend: str) -> Tensor:
    batch = torch.broadcast_shapes(a.shape[:-3], b.shape[:-3])
    return a.new_empty(*batch, a.shape[-3], b.shape[-2], 2)


@torch.library.custom_op("phasefield::phase_matmul_backward", mutates_args=())
def _matmul_backward(
    grad: Tensor, a: Tensor, b: Tensor, for_a: bool, for_b: bool, algorithm: str, backend: str
) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from . import fused as form
    else:
        form = blocked
    with outside_autocast(a):
        grads = form.backward(grad, a, b, for_a, for_b, algorithm)
    # An op returns tensors only: an empty one stands for no gradient.
    return tuple(a.new_empty(0) if g is None else g for g in grads)


@_matmul_backward.register_fake
def _(
    grad: Tensor, a: Tensor, b: Tensor, for_a: bool, for_b: bool, algorithm: str, backend: str
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape if for_a else 0), b.new_empty(b.shape if for_b else 0)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    a, b, algorithm, backend = inputs
    ctx.save_for_backward(a, b)
    ctx.algorithm, ctx.backend = algorithm, backend


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    for_a, for_b = ctx.needs_input_grad[:2]
    grad_a, grad_b = _matmul_backward(grad, a, b, for_a, for_b, ctx.algorithm, ctx.backend)
    return grad_a if for_a else None, grad_b if for_b else None, None, None


_matmul.register_autograd(_differentiate, setup_context=_setup_context)
