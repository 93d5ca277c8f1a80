"""oscillatory_scan: a rotation whose gate weighs new input against the past.

The kernels are those of :mod:`..rotation_scan`, with a gate.
"""

import torch
from torch import Tensor

from .. import checks
from ..backend import resolve
from ..rotation_scan import NATIVE, check, check_values, scan, with_time
from . import reference


def oscillatory_scan(
    x: Tensor,
    gate: Tensor,
    angle: Tensor,
    log_damping: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated damped rotation: ``h_t = g_t · x_t + (1 − g_t) · exp(log_damping) · R(angle) · h_{t-1}``.

    ``g_t = σ(gate_t)``; R(θ) turns a pair (real, imaginary) by θ; ``h_{-1}`` is the initial state, or 0.
    Accuracy as in :func:`~phasefield_kernels.rotation_scan`; the gated input is never written to memory.

    Args:
        x: ``[B, T, D, 2]``, real and imaginary part last; float32, bfloat16, float16 (float64 on the
            torch backends). Any strides.
        gate: ``[B, T, D]``, before the sigmoid.
        angle: radians a step, ``[D]`` (constant; float64 is used in full) or ``[B, T, D]``, best within
            ±10^4; or int64 phases of 2^64 a turn, which have no gradient.
        log_damping: ``≤ 0``; ``[D]``, ``[B, T, D]`` or None for no damping but the gate's.
        initial_state: ``[B, D, 2]`` (``[S, D, 2]`` if packed), read as float32; zeros if None.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(h, final_state)``: h ``[B, T, D, 2]`` in x's dtype, final_state ``[B, D, 2]`` (``[S, D, 2]``) in
        float32 (float64 for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device or backend that does not fit, or a positive log_damping.

    Source: the backbone of the Quantum Phase-Field LLM.
    """
    check(x, angle, log_damping, initial_state, cu_seqlens, decay_name="log_damping")
    checks.parameter("gate", gate, x, tuple(x.shape[:3]))
    name = resolve(backend, x, NATIVE)
    if name == "reference":
        check_values(log_damping, cu_seqlens, x, "log_damping")
        return reference.oscillatory_scan(x, gate, angle, log_damping, initial_state, cu_seqlens)
    return scan(x, angle, log_damping, gate, initial_state, cu_seqlens, name)


def oscillatory_scan_step(
    x: Tensor,
    gate: Tensor,
    angle: Tensor,
    log_damping: Tensor | None,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`oscillatory_scan`, differentiable; returns ``(h, new_state)``.

    x and state are ``[B, D, 2]``, gate ``[B, D]``, angle and log_damping ``[D]`` or ``[B, D]``.
    """
    checks.shape("x", x, ("B", "D", 2))
    checks.shape("gate", gate, tuple(x.shape[:2]))
    angle, log_damping = with_time(angle), with_time(log_damping)
    h, new_state = oscillatory_scan(
        x.unsqueeze(1), gate.unsqueeze(1), angle, log_damping, state, backend=backend
    )
    return h.squeeze(1), new_state


def oscillatory_scan_step_(
    x: Tensor,
    gate: Tensor,
    angle: Tensor,
    log_damping: Tensor | None,
    state: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns h.

    Args:
        x: ``[B, D, 2]``.
        gate: ``[B, D]``.
        angle: ``[D]`` or ``[B, D]``, as in :func:`oscillatory_scan`.
        log_damping: ``[D]``, ``[B, D]`` or None; its sign is not checked here.
        state: ``[B, D, 2]`` float32 (float64 for float64), contiguous; overwritten.
        backend: see :mod:`phasefield_kernels.backend`; ``"reference"`` runs the torch form.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit.
    """
    checks.no_grad_inputs("oscillatory_scan_step_", x, gate, angle, log_damping, state)
    checks.shape("x", x, ("B", "D", 2))
    checks.parameter("gate", gate, x, tuple(x.shape[:2]))
    parameters = (with_time(angle), with_time(log_damping))
    check(x.unsqueeze(1), *parameters, state, None, state_name="state", decay_name="log_damping")
    checks.state_in_place(state, x)
    return torch.ops.phasefield.rotation_scan_step_(
        x, angle, log_damping, gate, state, resolve(backend, x, NATIVE)
    )
