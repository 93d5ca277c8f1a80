"""rotation_scan in C (native.c), gated or not: how its tensors are given and what is added up."""

import torch
from torch import Tensor

from ..native import angles, call, plain, side_by_side, units_of_rows
from ..phases import radians_from_phase

_FORWARD, _BACKWARD = 1, 2  # nanoseconds a pair


def forward(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like x, final_state)``."""
    scan = _Scan(x, angle, log_decay, gate, cu_seqlens)
    final = torch.zeros(scan.rows, *x.shape[2:])
    if initial_state is not None:
        final.copy_(initial_state)
    h = torch.empty(x.shape)
    scan.factors()
    scan.run("rotation_scan_forward", _FORWARD, final, h)
    return h.to(x.dtype), final


def backward(
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
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Gradients to x, angle, log_decay, gate and initial_state; the parameters' and gate's only if needed.

    The mathematics is in blocked.py.
    """
    scan = _Scan(h if x is None else x, angle, log_decay, gate, cu_seqlens, grad_h)
    carry = grad_final.clone(memory_format=torch.contiguous_format)

    def room(tensor: Tensor | None) -> Tensor | None:
        by_token = needs_parameters and tensor is not None and tensor.ndim == 3
        return torch.empty(tensor.shape) if by_token else None

    grad_x, sums = torch.empty(h.shape), None
    by_token = [room(tensor) for tensor in (angle, log_decay, gate)]
    if needs_parameters:
        sums = torch.empty(scan.rows, 2, h.shape[2], dtype=torch.float64)
    scan.factors()
    scan.run(
        "rotation_scan_backward", _BACKWARD, carry, plain(h),
        scan.grad_h, plain(initial_state), grad_x, *by_token, sums,
    )  # fmt: skip
    grad_angle, grad_decay, grad_gate = by_token
    if needs_parameters:
        by_size, by_turn = (part.sum(0).float() for part in sums.unbind(1))
        grad_angle = by_turn if grad_angle is None else grad_angle
        if log_decay is not None:
            grad_decay = by_size if grad_decay is None else grad_decay
    return grad_x.to(h.dtype), grad_angle, grad_decay, grad_gate, carry


def step_(x: Tensor, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, state: Tensor) -> Tensor:
    """One step, ``[B, D, 2]``; the state is overwritten, the output returned."""
    h = torch.empty(x.shape)
    _Scan(x, angle, log_decay, gate, None).run("rotation_scan_step", _FORWARD, state, h)
    return h.to(x.dtype)


class _Scan:
    """One call's inputs as the kernels take them; a step's have no time axis."""

    def __init__(
        self,
        x: Tensor,
        angle: Tensor,
        log_decay: Tensor | None,
        gate: Tensor | None,
        cu_seqlens: Tensor | None,
        grad_h: Tensor | None = None,
    ) -> None:
        timed, width = x.ndim == 4, x.shape[-2]
        turns, decays = angle.ndim > 1, log_decay is not None and log_decay.ndim > 1
        by_token = [
            side_by_side(radians_from_phase(angle, torch.float32)) if turns else None,
            side_by_side(log_decay) if decays else None,
            side_by_side(gate),
        ]
        constant_angle, kind = (None, 0) if turns else angles(angle)
        self.grad_h = side_by_side(grad_h, 2)
        read = (side_by_side(x, 2), *by_token, self.grad_h)
        constant = (constant_angle, None if decays else plain(log_decay))
        factor = torch.empty(2, width, dtype=torch.float64)
        self.tensors = (*read[:4], *constant, factor, None if cu_seqlens is None else cu_seqlens.long())
        self.rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.width, self.pairs = width, x.numel() // 2
        self.units, vectors = units_of_rows("rotation_scan", self.rows, width)
        self.sizes = [self.rows, x.shape[1] if timed else 1, width, vectors]
        for tensor in read:
            row_and_time = (0, 0) if tensor is None else tensor.stride()[:2]
            self.sizes += row_and_time if timed else (row_and_time[0], 0)
        self.sizes.append(kind)

    def factors(self) -> None:
        """Fill in what is constant in time."""
        call("rotation_scan", "rotation_scan_factors", self.width, 40 * self.width, self.sizes, self.tensors)

    def run(self, kernel: str, cost: float, *tensors: Tensor | None) -> None:
        """Run a kernel whose further tensors, from the state on, are these."""
        call("rotation_scan", kernel, self.units, cost * self.pairs, self.sizes, (*self.tensors, *tensors))
