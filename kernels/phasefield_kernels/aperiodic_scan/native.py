"""aperiodic_scan in C (native.c): how its tensors are given, and what is added up after it."""

import torch
from torch import Tensor

from ..native import angles, call, plain, side_by_side, units_of_rows

_FORWARD, _BACKWARD = 1.2, 1.6  # nanoseconds a number


def forward(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like u, final_state)``."""
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = torch.zeros(rows, u.shape[2])
    if initial_state is not None:
        final.copy_(initial_state)
    scan = _Scan(u.shape, rows, scale, phase, side_by_side(u), None, cu_seqlens)
    h = torch.empty(u.shape)
    scan.run("aperiodic_scan_turns", 2 * u.shape[2], u.shape[2])
    scan.run("aperiodic_scan_forward", _FORWARD * u.numel(), scan.units, final, h)
    return h.to(u.dtype), final


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to u, scale and initial_state; the mathematics is in blocked.py."""
    rows = grad_final.shape[0]
    carry = grad_final.clone(memory_format=torch.contiguous_format)
    grad_u, by_row = torch.empty(h.shape), torch.empty(rows, h.shape[2])
    scan = _Scan(h.shape, rows, scale, phase, None, side_by_side(grad_h), cu_seqlens)
    others = (carry, plain(h), scan.grad_h, plain(initial_state), grad_u, by_row)
    scan.run("aperiodic_scan_turns", 2 * h.shape[2], h.shape[2])
    scan.run("aperiodic_scan_backward", _BACKWARD * h.numel(), scan.units, *others)
    return grad_u.to(h.dtype), by_row.sum(0), carry


def step_(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor) -> Tensor:
    """One step, ``[B, D]``; the state is overwritten, the output returned."""
    h = torch.empty(u.shape)
    scan = _Scan((u.shape[0], 1, u.shape[1]), u.shape[0], scale, phase, side_by_side(u), None, None)
    scan.run("aperiodic_scan_step", _FORWARD * u.numel(), scan.units, state, h)
    return h if h.dtype == u.dtype else h.to(u.dtype)


class _Scan:
    """One call's inputs as the kernels take them; a step's have no time axis."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        rows: int,
        scale: Tensor,
        phase: Tensor,
        u: Tensor | None,
        grad_h: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> None:
        _, length, width = shape
        self.units, vectors = units_of_rows("aperiodic_scan", rows, width)
        self.grad_h = grad_h
        phase, kind = angles(phase)
        offsets = None if cu_seqlens is None else cu_seqlens.long().contiguous()
        self.tensors = (u, plain(scale), phase, torch.empty(width), offsets)
        strides = ((0, 0) if t is None else (*t.stride()[:-1], 0)[:2] for t in (u, grad_h))
        self.sizes = (rows, length, width, vectors, *(stride for pair in strides for stride in pair), kind)

    def run(self, kernel: str, nanoseconds: float, units: int, *tensors: Tensor | None) -> None:
        """Run a kernel whose further tensors, from the state on, are these."""
        call("aperiodic_scan", kernel, units, nanoseconds, self.sizes, (*self.tensors, *tensors))
