"""rotation_scan: the damped linear rotation."""

import torch
from torch import Tensor

from .. import checks
from ..backend import resolve
from . import blocked, native, reference

NATIVE = "rotation_scan"
"""Where the native form is, of the gated scan as well."""


def rotation_scan(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Damped rotation along time: ``h_t = exp(log_decay_t) · R(angle_t) · h_{t-1} + x_t``.

    R(θ) turns a pair (real, imaginary) by θ; ``h_{-1}`` is the initial state, or 0.

    Accuracy in float32: with a constant angle the response to an impulse keeps its phase within 1e-6 rad
    of the exact one after 10^6 undamped steps, because turns are counted as 64-bit integers, not
    multiplied up; every call rounds the state it returns once, 2e-8 rad (rms) a call. Per-token angles
    are rounded at each step: the phase is off by at most ``2.5e-7 · T`` rad undamped, typically
    ``1e-7 · √T``, and a decay forgets it.

    Args:
        x: ``[B, T, D, 2]``, real and imaginary part last; float32, bfloat16, float16 (float64 on the
            torch backends). Any strides.
        angle: radians a step, ``[D]`` (constant; float64 is used in full) or ``[B, T, D]``, best within
            ±10^4; or int64 phases of 2^64 a turn, which have no gradient.
        log_decay: ``≤ 0``; ``[D]``, ``[B, T, D]`` or None for an undamped rotation; ``-inf`` forgets all.
        initial_state: ``[B, D, 2]`` (``[S, D, 2]`` if packed), read as float32; zeros if None.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(h, final_state)``: h ``[B, T, D, 2]`` in x's dtype, final_state ``[B, D, 2]`` (``[S, D, 2]``) in
        float32 (float64 for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device or backend that does not fit, or a positive log_decay.
    """
    check(x, angle, log_decay, initial_state, cu_seqlens)
    name = resolve(backend, x, NATIVE)
    if name == "reference":
        check_values(log_decay, cu_seqlens, x)
        return reference.rotation_scan(x, angle, log_decay, initial_state, cu_seqlens)
    return scan(x, angle, log_decay, None, initial_state, cu_seqlens, name)


def rotation_scan_step(
    x: Tensor, angle: Tensor, log_decay: Tensor | None, state: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of :func:`rotation_scan`, differentiable; returns ``(h, new_state)``.

    x and state are ``[B, D, 2]``, angle and log_decay ``[D]`` or ``[B, D]``.
    """
    checks.shape("x", x, ("B", "D", 2))
    angle, log_decay = with_time(angle), with_time(log_decay)
    h, new_state = rotation_scan(x.unsqueeze(1), angle, log_decay, state, backend=backend)
    return h.squeeze(1), new_state


def rotation_scan_step_(
    x: Tensor, angle: Tensor, log_decay: Tensor | None, state: Tensor, *, backend: str | None = None
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns h.

    Args:
        x: ``[B, D, 2]``.
        angle: ``[D]`` or ``[B, D]``, as in :func:`rotation_scan`.
        log_decay: ``[D]``, ``[B, D]`` or None; its sign is not checked here.
        state: ``[B, D, 2]`` float32 (float64 for float64), contiguous; overwritten.
        backend: see :mod:`phasefield_kernels.backend`; ``"reference"`` runs the torch form.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit.
    """
    checks.no_grad_inputs("rotation_scan_step_", x, angle, log_decay, state)
    checks.shape("x", x, ("B", "D", 2))
    check(x.unsqueeze(1), with_time(angle), with_time(log_decay), state, None, state_name="state")
    checks.state_in_place(state, x)
    return torch.ops.phasefield.rotation_scan_step_(
        x, angle, log_decay, None, state, resolve(backend, x, NATIVE)
    )


def with_time(parameter: Tensor | None) -> Tensor | None:
    """A step's parameter by lane, ``[B, D]``, with a time axis; others as they are."""
    return parameter.unsqueeze(1) if parameter is not None and parameter.ndim == 2 else parameter


def check(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_name: str = "initial_state",
    decay_name: str = "log_decay",
) -> None:
    """Shapes, dtypes and devices; shared with the gated form."""
    checks.shape("x", x, ("B", "T", "D", 2))
    checks.dtype("x", x, checks.FLOATS)
    batch, length, width, _ = x.shape
    checks.parameter("angle", angle, x, (width,), (batch, length, width))
    if log_decay is not None:
        checks.parameter(decay_name, log_decay, x, (width,), (batch, length, width))
    sequences = checks.packing(cu_seqlens, x, "x")
    if initial_state is not None:
        rows = batch if sequences is None else sequences
        checks.parameter(state_name, initial_state, x, (rows, width, 2))


def check_values(
    log_decay: Tensor | None, cu_seqlens: Tensor | None, x: Tensor, decay_name: str = "log_decay"
) -> None:
    """What can only be seen in the values."""
    checks.not_positive(decay_name, log_decay)
    checks.offsets_in_order(cu_seqlens, x.shape[1])


@torch.library.custom_op("phasefield::rotation_scan", mutates_args=())
def scan(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The scan on a resolved backend, gated or not."""
    check_values(log_decay, cu_seqlens, x, "log_decay" if gate is None else "log_damping")
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    return form.forward(x, angle, log_decay, gate, initial_state, cu_seqlens)


@scan.register_fake
def _(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty(x.shape), x.new_empty(rows, x.shape[2], 2, dtype=checks.state_dtype(x))


@torch.library.custom_op("phasefield::rotation_scan_backward", mutates_args=())
def _scan_backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    x: Tensor | None,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    needs_parameters: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    grad_x, grad_angle, grad_decay, grad_gate, grad_initial = form.backward(
        grad_h, grad_final, h, x, angle, log_decay, gate, initial_state, cu_seqlens, needs_parameters
    )
    grads = ((grad_angle, angle), (grad_decay, log_decay), (grad_gate, gate))
    return grad_x, *(_or_empty(grad, parameter, h) for grad, parameter in grads), grad_initial


def _or_empty(grad: Tensor | None, parameter: Tensor | None, h: Tensor) -> Tensor:
    # An op returns tensors only: an empty one stands for no gradient.
    if grad is None or parameter is None:
        return h.new_empty(0)
    return grad.to(checks.gradient_dtype(parameter, h))


@_scan_backward.register_fake
def _(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    x: Tensor | None,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    needs_parameters: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = (
        h.new_empty(0)
        if parameter is None or not needs_parameters
        else h.new_empty(parameter.shape, dtype=checks.gradient_dtype(parameter, h))
        for parameter in (angle, log_decay, gate)
    )
    return h.new_empty(h.shape), *grads, grad_final.new_empty(grad_final.shape)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, angle, log_decay, gate, initial_state, cu_seqlens, backend = inputs
    x = None if gate is None else x
    ctx.save_for_backward(output[0], x, angle, log_decay, gate, initial_state, cu_seqlens)
    ctx.backend = backend


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_h: Tensor, grad_final: Tensor
) -> tuple[Tensor | None, ...]:
    *tensors, initial_state, cu_seqlens = ctx.saved_tensors
    _, *needed = ctx.needs_input_grad[:4]
    grad_x, *grads, grad_initial = _scan_backward(
        grad_h, grad_final, *tensors, initial_state, cu_seqlens, any(needed), ctx.backend
    )
    return (
        grad_x,
        *(grad if wanted else None for grad, wanted in zip(grads, needed, strict=True)),
        None if initial_state is None else grad_initial.to(initial_state.dtype),
        None,
        None,
    )


scan.register_autograd(_differentiate, setup_context=_setup_context)


def _step_(
    x: Tensor, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, state: Tensor, backend: str
) -> Tensor:
    if backend == "triton":
        from . import fused as form
    else:
        form = native if backend == "native" else blocked
    return form.step_(x, angle, log_decay, gate, state)


# Decoding calls this once a token and layer: torch.library's bare registration costs 3 µs, custom_op 10.
_library = torch.library.Library("phasefield", "FRAGMENT")
_library.define(
    "rotation_scan_step_(Tensor x, Tensor angle, Tensor? log_decay, Tensor? gate, Tensor(a!) state, "
    "str backend) -> Tensor"
)
_library.impl("rotation_scan_step_", _step_, "CompositeExplicitAutograd")
torch.library.register_fake(
    "phasefield::rotation_scan_step_",
    lambda x, angle, log_decay, gate, state, backend: x.new_empty(x.shape),
    lib=_library,
)
