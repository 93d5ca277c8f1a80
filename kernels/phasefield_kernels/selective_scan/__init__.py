"""selective_scan: Mamba's recurrence, real and complex."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast
from ..backend import resolve
from . import blocked, native, reference, step
from .tiles import Inputs, saved_numel


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba's selective state-space scan, one state of N numbers a channel.

        ``h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t``,     ``y_t = (C_t h_t + D x_t) · silu(z_t)``

    with ``Δ_t = dt_t + dt_bias``, through a softplus if ``dt_softplus``; ``h_{-1}`` is the initial state, or
    0. For complex A, B and C, which are not conjugated, ``2 Re(C_t h_t)`` stands for ``C_t h_t``.

    States are float32 whatever x is. Only some are kept for the backward, which computes the others again a
    few at a time: there is no ``[B, T, D, N]`` tensor. The fused kernels keep one in 256 steps, the torch
    form one in 8 to 64, the native form one in 16. Tensors are read through their strides: ``[B, D, T]``
    transposed is not copied (the native form copies it); a new stride of the time, width or number of states
    compiles a Triton kernel anew.

    Args:
        x: ``[B, T, D]``; float32, bfloat16, float16 or float64. Any strides.
        dt: ``[B, T, D]``, time steps; Δ should be ≥ 0.
        A: ``[D, N]``, or complex ``[D, N, 2]``, real and imaginary part last; with real parts ≤ 0 states
            cannot grow.
        B, C: ``[B, T, N]`` for all channels, or ``[B, T, G, N]`` for G groups of D / G neighbouring channels;
            with a last axis of 2 where A has one.
        D: ``[D]``, the skip.
        z: ``[B, T, D]``, the gate.
        dt_bias: ``[D]``.
        dt_softplus: see above.
        initial_state: ``[B, D, N]`` (``[S, D, N]`` if packed; complex with a last axis of 2), zeros if None.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(y, final_state)``: y ``[B, T, D]`` in x's dtype, final_state like initial_state in float32 (float64
        for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device or backend that does not fit.

    Source: A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023.
    """
    _check(x, dt, A, B, C, D, z, dt_bias)
    sequences = checks.packing(cu_seqlens, x, "x")
    if initial_state is not None:
        rows = x.shape[0] if sequences is None else sequences
        checks.parameter("initial_state", initial_state, x, (rows, *A.shape))
    name = resolve(backend, x, _native(A))
    if name == "reference":
        checks.offsets_in_order(cu_seqlens, x.shape[1])
        return reference.selective_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, cu_seqlens)
    y, final_state, _ = _scan(x, dt, B, C, z, A, D, dt_bias, dt_softplus, initial_state, cu_seqlens, name)
    return y, final_state


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`selective_scan`, differentiable; returns ``(y, new_state)``.

    x, dt and z are ``[B, D]``, B and C ``[B, N]`` or ``[B, G, N]``; the rest as in the scan.
    """
    checks.shape("x", x, ("B", "D"))
    x, dt, B, C = (tensor.unsqueeze(1) for tensor in (x, dt, B, C))
    z = None if z is None else z.unsqueeze(1)
    y, new_state = selective_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, state, backend=backend)
    return y.squeeze(1), new_state


def selective_scan_step_(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns y; arguments as in :func:`selective_scan_step`.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit; state has to be contiguous and float32
            (float64 for float64).
    """
    checks.no_grad_inputs("selective_scan_step_", x, dt, A, B, C, D, z, dt_bias, state)
    checks.shape("x", x, ("B", "D"))
    tokens = [None if tensor is None else tensor.unsqueeze(1) for tensor in (x, dt, B, C, z)]
    x, dt, B, C, z = tokens
    _check(x, dt, A, B, C, D, z, dt_bias)
    checks.parameter("state", state, x, (x.shape[0], *A.shape))
    checks.state_in_place(state, x)
    return torch.ops.phasefield.selective_scan_step_(
        x, dt, B, C, z, A, D, dt_bias, dt_softplus, state, resolve(backend, x, _native(A))
    ).squeeze(1)


def _native(A: Tensor) -> str | None:
    # Its C is written for real numbers.
    return "selective_scan" if A.ndim == 2 else None


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> None:
    checks.shape("x", x, ("B", "T", "D"))
    checks.dtype("x", x, checks.FLOATS)
    batch, length, width = x.shape
    checks.parameter("dt", dt, x, (batch, length, width))
    checks.parameter("A", A, x, (width, "N"), (width, "N", 2))
    number = (A.shape[1], *A.shape[2:])
    for name, tensor in (("B", B), ("C", C)):
        checks.parameter(name, tensor, x, (batch, length, *number), (batch, length, "G", *number))
    if B.shape != C.shape:
        raise ValueError(f"C has shape {list(C.shape)}; allowed is B's, {list(B.shape)}.")
    if B.ndim == 3 + len(number) and (B.shape[2] == 0 or width % B.shape[2]):
        raise ValueError(f"B has {B.shape[2]} groups; allowed is a number that divides D = {width}.")
    if z is not None:
        checks.parameter("z", z, x, (batch, length, width))
    for name, tensor in (("D", D), ("dt_bias", dt_bias)):
        if tensor is not None:
            checks.parameter(name, tensor, x, (width,))


@torch.library.custom_op("phasefield::selective_scan", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    checks.offsets_in_order(cu_seqlens, x.shape[1])
    inputs = Inputs(x, dt, B, C, z, A, D, dt_bias, dt_softplus)
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    with outside_autocast(x):
        return form.forward(inputs, initial_state, cu_seqlens)


@_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if backend == "triton":
        from .fused import kept_states

        kept = sum(kept_states(x.shape, cu_seqlens is not None)) * A.numel()
    elif backend == "native":
        kept = native.saved_numel(x.shape, A.shape, cu_seqlens)
    elif cu_seqlens is None:
        kept = saved_numel(x.shape, A.shape)
    else:
        kept = torch.library.get_ctx().new_dynamic_size()
    dtype = checks.state_dtype(x)
    return x.new_empty(x.shape), x.new_empty(rows, *A.shape, dtype=dtype), x.new_empty(kept, dtype=dtype)


@torch.library.custom_op("phasefield::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    kept: Tensor,
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> list[Tensor]:
    inputs = Inputs(x, dt, B, C, z, A, D, dt_bias, dt_softplus)
    with outside_autocast(x):
        if backend == "triton":
            from . import fused

            grads = fused.backward(grad_y, grad_final, kept, inputs, initial_state, cu_seqlens)
        else:
            form = native if backend == "native" else blocked
            grads = form.backward(grad_y, grad_final, kept, inputs, cu_seqlens)
    return [
        grad for grad, given in zip(grads, (*inputs[:8], initial_state), strict=True) if given is not None
    ]


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_final: Tensor,
    kept: Tensor,
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> list[Tensor]:
    states = None if initial_state is None else grad_final
    given = (x, dt, B, C, z, A, D, dt_bias, states)
    return [tensor.new_empty(tensor.shape) for tensor in given if tensor is not None]


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    *tensors, dt_softplus, initial_state, cu_seqlens, backend = inputs
    ctx.save_for_backward(output[2], *tensors, initial_state, cu_seqlens)
    ctx.mark_non_differentiable(output[2])
    ctx.dt_softplus = dt_softplus
    ctx.backend = backend


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_y: Tensor, grad_final: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    kept, *tensors, initial_state, cu_seqlens = ctx.saved_tensors
    found = iter(
        _scan_backward(
            grad_y, grad_final, kept, *tensors, ctx.dt_softplus, initial_state, cu_seqlens, ctx.backend
        )
    )
    grads = [None if tensor is None else next(found) for tensor in tensors]
    grad_initial = None if initial_state is None else next(found).to(initial_state.dtype)
    return (*grads, None, grad_initial, None, None)


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _step_(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor,
    backend: str,
) -> Tensor:
    inputs = Inputs(x, dt, B, C, z, A, D, dt_bias, dt_softplus)
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else step
    with outside_autocast(x):
        return form.step_(inputs, state)


_library = torch.library.Library("phasefield", "FRAGMENT")
_library.define(
    "selective_scan_step_(Tensor x, Tensor dt, Tensor B, Tensor C, Tensor? z, Tensor A, Tensor? D, "
    "Tensor? dt_bias, bool dt_softplus, Tensor(a!) state, str backend) -> Tensor"
)
_library.impl("selective_scan_step_", _step_, "CompositeExplicitAutograd")
torch.library.register_fake(
    "phasefield::selective_scan_step_", lambda x, *rest: x.new_empty(x.shape), lib=_library
)
