"""aperiodic_scan in C (native.c): how its tensors are given, and what is added up after it."""

import math

import torch
from torch import Tensor

from ..native import call, plain, side_by_side, units_of_rows
from ..phases import radians_from_phase

_FORWARD, _BACKWARD = 4, 4  # nanoseconds a number


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
    u_read, h = side_by_side(u), torch.empty(u.shape)
    strides = (*u_read.stride()[:2], 0, 0)
    parameters = (plain(scale), _within_a_turn(phase), _offsets(cu_seqlens))
    _run("aperiodic_scan_forward", _FORWARD, rows, u.shape, strides, u_read, *parameters, final, h)
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
    grad_h, grad_u, by_row = side_by_side(grad_h), torch.empty(h.shape), torch.empty(rows, h.shape[2])
    strides = (0, 0, *grad_h.stride()[:2])
    parameters = (plain(scale), _within_a_turn(phase), _offsets(cu_seqlens))
    others = (carry, plain(h), grad_h, plain(initial_state), grad_u, by_row)
    _run("aperiodic_scan_backward", _BACKWARD, rows, h.shape, strides, None, *parameters, *others)
    return grad_u.to(h.dtype), by_row.sum(0), carry


def step_(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor) -> Tensor:
    """One step, ``[B, D]``; the state is overwritten, the output returned."""
    u_read, h = side_by_side(u), torch.empty(u.shape)
    parameters = (plain(scale), _within_a_turn(phase), None)
    shape, strides = (u.shape[0], 1, u.shape[1]), (u_read.stride(0), 0, 0, 0)
    _run("aperiodic_scan_forward", _FORWARD, u.shape[0], shape, strides, u_read, *parameters, state, h)
    return h.to(u.dtype)


def _within_a_turn(phase: Tensor) -> Tensor:
    # Radians, which may be any, as float32 that lose nothing to their size.
    return torch.remainder(radians_from_phase(phase) + math.pi, 2 * math.pi).sub_(math.pi).float()


def _offsets(cu_seqlens: Tensor | None) -> Tensor | None:
    return None if cu_seqlens is None else cu_seqlens.long().contiguous()


def _run(
    kernel: str,
    cost: float,
    rows: int,
    shape: tuple[int, int, int],
    strides: tuple[int, int, int, int],
    *tensors: Tensor | None,
) -> None:
    _, length, width = shape
    units, vectors = units_of_rows("aperiodic_scan", rows, width)
    sizes = (rows, length, width, vectors, *strides)
    call("aperiodic_scan", kernel, units, cost * math.prod(shape), sizes, tensors)
