"""phase_linear: a complex linear map with bias, modReLU and residual in its epilogue."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast, under_autocast
from ..backend import resolve
from ..complex_product.arguments import algorithm_named
from . import blocked, native, reference


def phase_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    threshold: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    algorithm: str = "direct",
    backend: str | None = None,
) -> Tensor:
    """Complex linear map: ``z = W x + b``, then modReLU if there is a threshold, then the residual.

    modReLU is ``relu(m + t) · z / m`` with ``m = √(|z|² + ε²)``, ε = 1e-4: value and gradient are finite at
    0, and a negative threshold silences what is shorter.

    Sums are formed in float32 (float64 for float64). Where a gradient is wanted and there is a threshold, the
    forward keeps the pre-activations, one more tensor like the output (in x's dtype on a GPU, float32 on a
    CPU): they cannot be had back from an output that the threshold dominates, and recomputing them
    costs a product, a third of the whole backward.

    Under autocast x is read in autocast's dtype; the weight is rounded inside, and its gradient is not.

    Args:
        x: ``[…, K, 2]``, real and imaginary part last; float32, bfloat16, float16 (float64 on the torch
            backends). Any strides.
        weight: ``[N, K, 2]``; multiplied in x's dtype, whatever its own.
        bias: ``[N, 2]``.
        threshold: ``[N]``, of modReLU; −∞ switches a unit off; None for a linear map.
        residual: ``[…, N, 2]``, added last.
        algorithm: ``"direct"`` (four real multiplications) or ``"gauss"`` (three, on sums formed in float32,
            rounded to x's dtype). Largest error over largest value at K = 64 to 1024: direct 1e-7 to 4e-7,
            Gauss 2e-7 to 5e-7 in float32; 2.7e-3 and 3.6e-3 in bfloat16, 3.5e-4 and 4.6e-4 in float16.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``[…, N, 2]`` in x's dtype.

    Raises:
        ValueError: a shape, dtype, device, algorithm or backend that does not fit.
    """
    x = under_autocast(x)
    _check(x, weight, bias, threshold, residual)
    algorithm_named(algorithm)
    name = resolve(backend, x, "phase_linear")
    if name == "reference":
        return reference.phase_linear(x, weight, bias, threshold, residual)
    tensors = (x, weight, bias, threshold, residual)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, _ = _linear(*tensors, keep and threshold is not None, algorithm, name)
    return y


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, threshold: Tensor | None, residual: Tensor | None
) -> None:
    checks.dtype("x", x, checks.FLOATS)
    if x.ndim < 2 or x.shape[-1] != 2:
        raise ValueError(f"x has shape {list(x.shape)}; allowed is [..., K, 2].")
    checks.parameter("weight", weight, x, ("N", x.shape[-2], 2))
    units = weight.shape[0]
    if bias is not None:
        checks.parameter("bias", bias, x, (units, 2))
    if threshold is not None:
        checks.parameter("threshold", threshold, x, (units,))
    if residual is not None:
        checks.parameter("residual", residual, x, (*x.shape[:-2], units, 2))


@torch.library.custom_op("phasefield::phase_linear", mutates_args=())
def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor | None,
    residual: Tensor | None,
    keep: bool,
    algorithm: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    with outside_autocast(x):
        y, saved = form.forward(x, weight, bias, threshold, residual, keep, algorithm)
    return y, x.new_empty(0) if saved is None else saved


@_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor | None,
    residual: Tensor | None,
    keep: bool,
    algorithm: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-2], weight.shape[0], 2)
    if not keep or threshold is None:
        return x.new_empty(shape), x.new_empty(0)
    return x.new_empty(shape), x.new_empty(
        shape, dtype=x.dtype if backend == "triton" else checks.state_dtype(x)
    )


@torch.library.custom_op("phasefield::phase_linear_backward", mutates_args=())
def _linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor,
    threshold: Tensor | None,
    needs: list[bool],
    algorithm: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    with outside_autocast(x):
        if threshold is None:
            saved = None
        else:
            # −∞ switches a unit off, and times 0 would be NaN; t/m is finite where m ≥ ε.
            dtype = checks.state_dtype(x)
            threshold = threshold.to(dtype).clamp(min=torch.finfo(dtype).min * reference.EPSILON / 2)
        grads = form.backward(grad, x, weight, saved, threshold, tuple(needs), algorithm)
    # An op returns tensors only: an empty one stands for no gradient.
    return tuple(x.new_empty(0) if g is None else g for g in grads)


@_linear_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor,
    threshold: Tensor | None,
    needs: list[bool],
    algorithm: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    units, state = weight.shape[0], checks.state_dtype(x)
    shapes = (
        (x.shape, x.dtype),
        (weight.shape, weight.dtype),
        ((units, 2), state),
        ((units,), state),
    )
    return tuple(
        x.new_empty(shape, dtype=dtype) if needed else x.new_empty(0)
        for (shape, dtype), needed in zip(shapes, needs, strict=True)
    )


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, weight, bias, threshold, residual, _, algorithm, backend = inputs
    ctx.save_for_backward(x, weight, output[1], threshold)
    ctx.mark_non_differentiable(output[1])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.algorithm, ctx.backend = algorithm, backend


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    x, weight, saved, threshold = ctx.saved_tensors
    *needs, for_residual = ctx.needs_input_grad[:5]
    grads = [None] * 4
    if any(needs):
        found = _linear_backward(grad, x, weight, saved, threshold, list(needs), ctx.algorithm, ctx.backend)
        dtypes = (x.dtype, weight.dtype, ctx.bias_dtype, None if threshold is None else threshold.dtype)
        grads = [
            g.to(dtype) if needed else None for g, dtype, needed in zip(found, dtypes, needs, strict=True)
        ]
    return *grads, grad.to(ctx.residual_dtype) if for_residual else None, None, None, None


_linear.register_autograd(_differentiate, setup_context=_setup_context)
