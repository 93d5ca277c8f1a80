"""aperiodic_scan: the nonlinear, diagonal recurrence of the Landauer cell."""

import torch
from torch import Tensor

from .. import checks
from ..backend import resolve
from . import blocked, native, reference

METHODS = ("exact", "newton")


def aperiodic_scan(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    method: str = "exact",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Aperiodic recurrence along time: ``h_t = tanh(u_t + scale · h_{t-1} · cos(phase + h_{t-1}))``.

    Every lane (b, d) is independent of the others; ``h_{-1}`` is the initial state, or 0. The cell of
    Landauer LLM, where the phase of unit d of layer l is ``d`` times the golden angle over ``s^l``.

    Args:
        u: inputs ``[B, T, D]``; float32, bfloat16, float16 (float64 on the torch backends). Any strides.
        scale: c, ``[D]``, read as float32. Above about 1 in magnitude a lane can be chaotic.
        phase: φ in radians, ``[D]``, or int64 phases of 2^64 a turn; a constant, not differentiated.
        initial_state: ``[B, D]`` (``[S, D]`` if packed), read as float32; zeros if None.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        method: ``"exact"`` goes step by step. ``"newton"`` is for few lanes and long T: chunks run in
            parallel from guessed states, Newton's iterations on the chunks' boundaries join them, and
            lanes whose error is not certified to be under 4e-6 are computed exactly
            (see :mod:`phasefield_kernels.aperiodic_scan.newton`). Gradients are the exact adjoint.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(h, final_state)``: h ``[B, T, D]`` in u's dtype, final_state ``[B, D]`` (``[S, D]``) in float32
        (float64 for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device, method or backend that does not fit.
    """
    _check(u, scale, phase, initial_state, cu_seqlens)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(METHODS)}.")
    if method == "newton" and cu_seqlens is not None:
        raise ValueError("method is 'newton' with cu_seqlens; packed sequences take method='exact'.")
    name = resolve(backend, u, "aperiodic_scan")
    if name == "reference":
        checks.offsets_in_order(cu_seqlens, u.shape[1])
        return reference.aperiodic_scan(u, scale, phase, initial_state, cu_seqlens)
    return _scan(u, scale, phase, initial_state, cu_seqlens, method, name)


def aperiodic_scan_step(
    u: Tensor, scale: Tensor, phase: Tensor, state: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of :func:`aperiodic_scan`, differentiable: ``[B, D]`` u and state → ``(h, new_state)``."""
    checks.shape("u", u, ("B", "D"))
    h, new_state = aperiodic_scan(u.unsqueeze(1), scale, phase, state, backend=backend)
    return h.squeeze(1), new_state


def aperiodic_scan_step_(
    u: Tensor, scale: Tensor, phase: Tensor, state: Tensor, *, backend: str | None = None
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns h.

    Args:
        u: ``[B, D]``.
        scale: ``[D]``.
        phase: ``[D]``, as in :func:`aperiodic_scan`.
        state: ``[B, D]`` float32 (float64 for float64), contiguous; overwritten.
        backend: see :mod:`phasefield_kernels.backend`; ``"reference"`` runs the torch form.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit.
    """
    checks.no_grad_inputs("aperiodic_scan_step_", u, scale, state)
    checks.shape("u", u, ("B", "D"))
    _check(u.unsqueeze(1), scale, phase, state, None, state_name="state")
    checks.state_in_place(state, u)
    return torch.ops.phasefield.aperiodic_scan_step_(
        u, scale, phase, state, resolve(backend, u, "aperiodic_scan")
    )


def _check(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
) -> None:
    checks.shape("u", u, ("B", "T", "D"))
    checks.dtype("u", u, checks.FLOATS)
    batch, _, width = u.shape
    checks.parameter("scale", scale, u, (width,))
    checks.parameter("phase", phase, u, (width,))
    sequences = checks.packing(cu_seqlens, u, "u")
    if initial_state is not None:
        checks.parameter(state_name, initial_state, u, (batch if sequences is None else sequences, width))


@torch.library.custom_op("phasefield::aperiodic_scan", mutates_args=())
def _scan(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    checks.offsets_in_order(cu_seqlens, u.shape[1])
    if method == "newton":
        from . import newton

        return newton.forward(u, scale, phase, initial_state, backend)
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    return form.forward(u, scale, phase, initial_state, cu_seqlens)


@_scan.register_fake
def _(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return u.new_empty(u.shape), u.new_empty(rows, u.shape[2], dtype=checks.state_dtype(u))


@torch.library.custom_op("phasefield::aperiodic_scan_backward", mutates_args=())
def _scan_backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    return form.backward(grad_h, grad_final, h, scale, phase, initial_state, cu_seqlens)


@_scan_backward.register_fake
def _(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = grad_final.dtype
    return h.new_empty(h.shape), h.new_empty(h.shape[2], dtype=dtype), torch.empty_like(grad_final)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    _, scale, phase, initial_state, cu_seqlens, _, backend = inputs
    ctx.save_for_backward(output[0], scale, phase, initial_state, cu_seqlens)
    ctx.backend = backend


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_h: Tensor, grad_final: Tensor
) -> tuple[Tensor | None, ...]:
    h, scale, phase, initial_state, cu_seqlens = ctx.saved_tensors
    grad_u, grad_scale, grad_initial = _scan_backward(
        grad_h, grad_final, h, scale, phase, initial_state, cu_seqlens, ctx.backend
    )
    grad_initial = None if initial_state is None else grad_initial.to(initial_state.dtype)
    return grad_u, grad_scale.to(scale.dtype), None, grad_initial, None, None, None


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _step_(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor, backend: str) -> Tensor:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    return form.step_(u, scale, phase, state)


# Decoding calls this once a token and layer: torch.library's bare registration costs 3 µs, custom_op 10.
_library = torch.library.Library("phasefield", "FRAGMENT")
_library.define(
    "aperiodic_scan_step_(Tensor u, Tensor scale, Tensor phase, Tensor(a!) state, str backend) -> Tensor"
)
_library.impl("aperiodic_scan_step_", _step_, "CompositeExplicitAutograd")
torch.library.register_fake(
    "phasefield::aperiodic_scan_step_",
    lambda u, scale, phase, state, backend: u.new_empty(u.shape),
    lib=_library,
)
