"""linoss_scan: forced harmonic oscillators, one a channel."""

import torch
from torch import Tensor

from .. import checks
from ..backend import resolve
from . import native, passes, reference

DISCRETIZATIONS = ("implicit", "implicit-explicit")


def linoss_scan(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None = None,
    *,
    discretization: str = "implicit",
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions of the oscillators ``q'' = −A q + u`` (LinOSS), stepped by dt.

        ``v_t = S (v_{t-1} + dt (u_t − A q_{t-1}))``,     ``q_t = q_{t-1} + dt v_t``

    with S = 1 / (1 + dt² A) for ``"implicit"`` (LinOSS-IM, dissipative) and S = 1 for
    ``"implicit-explicit"`` (LinOSS-IMEX, which conserves energy). Complex forcing is two real channels.

    Accuracy: channels run as a rotation (see :func:`~phasefield_kernels.rotation_scan`), whose turns are
    exact over any time, so that in float32 errors are those of T roundings, about ``2e-7 · √T`` of the
    largest position. Where ``dt² A`` is within 2^-14 of 0 (or, implicit-explicit, of 4) the step has no
    eigenvectors to rotate along (their condition number passes 10^2 and has no bound): such channels step
    by their 2×2 matrix in float64. See :mod:`phasefield_kernels.linoss_scan.transition`. The native form
    keeps all states in float64 while it scans and steps as above.

    Args:
        u: forces ``[B, T, D]``; float32, bfloat16, float16 (float64 on the torch backends). Any strides.
        A: squared frequencies ``[D]``, ≥ 0; implicit-explicit steps are stable for ``dt² A ≤ 4`` only.
        dt: time steps ``[D]``, > 0.
        initial_state: ``[B, D, 2]`` (``[S, D, 2]`` if packed), position and velocity last; zeros if None.
        discretization: ``"implicit"`` or ``"implicit-explicit"``.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(positions, final_state)``: positions ``[B, T, D]`` in u's dtype, final_state ``[B, D, 2]``
        (``[S, D, 2]``) in float32 (float64 for float64). Memory: two float32 pairs a value of u (native: one
        in 16 steps).

    Raises:
        ValueError: a shape, dtype, device or backend that does not fit, a negative A, a dt that is not
            positive, or an unstable step.

    Source: T. K. Rusch and D. Rus, "Oscillatory state-space models", 2024.
    """
    _check(u, A, dt, initial_state, discretization)
    sequences = checks.packing(cu_seqlens, u, "u")
    if initial_state is not None:
        rows = u.shape[0] if sequences is None else sequences
        checks.parameter("initial_state", initial_state, u, (rows, u.shape[2], 2))
    name = resolve(backend, u, "linoss_scan")
    if name == "reference":
        _check_values(u, A, dt, cu_seqlens, discretization)
        return reference.linoss_scan(u, A, dt, initial_state, discretization, cu_seqlens)
    positions, final_state, _ = _scan(u, A, dt, initial_state, cu_seqlens, discretization, name)
    return positions, final_state


def linoss_scan_step(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    state: Tensor,
    *,
    discretization: str = "implicit",
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`linoss_scan`, differentiable; u ``[B, D]``; returns ``(position, new_state)``."""
    checks.shape("u", u, ("B", "D"))
    positions, new_state = linoss_scan(
        u.unsqueeze(1), A, dt, state, discretization=discretization, backend=backend
    )
    return positions.squeeze(1), new_state


def linoss_scan_step_(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    state: Tensor,
    *,
    discretization: str = "implicit",
    backend: str | None = None,
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns the positions.

    Args:
        u: ``[B, D]``.
        A, dt: ``[D]``; their values are not checked here.
        state: ``[B, D, 2]`` float32 (float64 for float64), contiguous; overwritten.
        discretization: as in :func:`linoss_scan`.
        backend: see :mod:`phasefield_kernels.backend`; all but ``"native"`` run the same few torch ops.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit.
    """
    checks.no_grad_inputs("linoss_scan_step_", u, A, dt, state)
    checks.shape("u", u, ("B", "D"))
    _check(u.unsqueeze(1), A, dt, state, discretization)
    checks.parameter("state", state, u, (*u.shape, 2))
    checks.state_in_place(state, u)
    name = resolve(backend, u, "linoss_scan")
    return torch.ops.phasefield.linoss_scan_step_(u, A, dt, state, discretization, name)


def _check(u: Tensor, A: Tensor, dt: Tensor, state: Tensor | None, discretization: str) -> None:
    checks.shape("u", u, ("B", "T", "D"))
    checks.dtype("u", u, checks.FLOATS)
    checks.parameter("A", A, u, (u.shape[2],))
    checks.parameter("dt", dt, u, (u.shape[2],))
    if discretization not in DISCRETIZATIONS:
        allowed = " and ".join(map(repr, DISCRETIZATIONS))
        raise ValueError(f"discretization is {discretization!r}; allowed are {allowed}.")


def _check_values(u: Tensor, A: Tensor, dt: Tensor, cu_seqlens: Tensor | None, discretization: str) -> None:
    checks.offsets_in_order(cu_seqlens, u.shape[1])
    if A.numel() == 0 or not checks.values_are_readable(A):
        return
    if not (least := A.min().item()) >= 0:
        raise ValueError(f"A reaches {least:.6g}; allowed are squared frequencies, at least 0.")
    if not (least := dt.min().item()) > 0:
        raise ValueError(f"dt reaches {least:.6g}; allowed are time steps above 0.")
    largest = (dt.double().square() * A.double()).max().item()
    # dt² A = 4 itself is often meant where a rounded dt or A puts it just above.
    if discretization == "implicit-explicit" and largest > 4 * (1 + 2**-22):
        raise ValueError(f"dt² A reaches {largest:.6g}; implicit-explicit steps are stable up to 4.")


@torch.library.custom_op("phasefield::linoss_scan", mutates_args=())
def _scan(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_values(u, A, dt, cu_seqlens, discretization)
    if backend == "native":
        return native.forward(u, A, dt, initial_state, cu_seqlens, discretization)
    return passes.forward(_form(backend), u, A, dt, initial_state, cu_seqlens, discretization)


def _form(backend: str) -> passes.Form:
    if backend == "triton":
        from . import fused

        return fused.FORM
    from . import blocked

    return blocked.FORM


@_scan.register_fake
def _(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, width = u.shape
    rows = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = checks.state_dtype(u)
    kept = (batch, length, width, 2)
    if backend == "native":
        kept = native.saved_shape(u.shape, cu_seqlens)
    return (
        u.new_empty(u.shape),
        u.new_empty(rows, width, 2, dtype=dtype),
        u.new_empty(kept, dtype=dtype),
    )


@torch.library.custom_op("phasefield::linoss_scan_backward", mutates_args=())
def _scan_backward(
    grad_positions: Tensor,
    grad_final: Tensor,
    pairs: Tensor,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if backend == "native":
        return native.backward(grad_positions, grad_final, pairs, u, A, dt, cu_seqlens, discretization)
    return passes.backward(
        _form(backend), grad_positions, grad_final, pairs, u, A, dt, initial_state, cu_seqlens, discretization
    )


@_scan_backward.register_fake
def _(
    grad_positions: Tensor,
    grad_final: Tensor,
    pairs: Tensor,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        u.new_empty(u.shape),
        A.new_empty(A.shape),
        dt.new_empty(dt.shape),
        grad_final.new_empty(grad_final.shape),
    )


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    *tensors, discretization, backend = inputs
    ctx.set_materialize_grads(True)
    ctx.save_for_backward(output[2], *tensors)
    ctx.options = (discretization, backend)


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_positions: Tensor, grad_final: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    initial_state = ctx.saved_tensors[4]
    *grads, grad_initial = _scan_backward(grad_positions, grad_final, *ctx.saved_tensors, *ctx.options)
    grad_initial = None if initial_state is None else grad_initial.to(initial_state.dtype)
    return (*grads, grad_initial, None, None, None)


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _step_(u: Tensor, A: Tensor, dt: Tensor, state: Tensor, discretization: str, backend: str) -> Tensor:
    if backend == "native":
        return native.step_(u, A, dt, state, discretization)
    dtype = state.dtype
    state.copy_(reference.step(u.to(dtype), A.to(dtype), dt.to(dtype), state, discretization))
    return state[..., 0].to(u.dtype, copy=True)


_library = torch.library.Library("phasefield", "FRAGMENT")
_library.define(
    "linoss_scan_step_(Tensor u, Tensor A, Tensor dt, Tensor(a!) state, str discretization, str backend) "
    "-> Tensor"
)
_library.impl("linoss_scan_step_", _step_, "CompositeExplicitAutograd")
torch.library.register_fake(
    "phasefield::linoss_scan_step_", lambda u, *rest: u.new_empty(u.shape), lib=_library
)
