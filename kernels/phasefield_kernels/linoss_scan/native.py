"""linoss_scan in C (native.c, which has the adjoint): how its tensors are given, and what is added up."""

import torch
from torch import Tensor

from ..checks import gradient_dtype
from ..native import call, side_by_side, units_of_rows

_SPAN = 16  # native.c's SPAN
_FORWARD, _BACKWARD = 2, 3  # nanoseconds a number


def forward(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(positions like u, final_state, starts)``: the states before the spans, for the backward."""
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = torch.zeros(rows, u.shape[2], 2)
    if initial_state is not None:
        final.copy_(initial_state)
    starts, positions = torch.empty(saved_shape(u.shape, cu_seqlens)), torch.empty(u.shape)
    written = (final, starts, positions)
    _run("linoss_scan_forward", _FORWARD, rows, u, A, dt, cu_seqlens, discretization, None, *written)
    return positions.to(u.dtype), final, starts


def backward(
    grad_positions: Tensor,
    grad_final: Tensor,
    starts: Tensor,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    cu_seqlens: Tensor | None,
    discretization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to u, A, dt and initial_state."""
    rows = grad_final.shape[0]
    carry = grad_final.clone(memory_format=torch.contiguous_format)
    direct, grad_u = side_by_side(grad_positions), torch.empty(u.shape)
    grad_A, grad_dt = (torch.empty(rows, u.shape[2], dtype=torch.float64) for _ in range(2))
    others = (carry, starts, None, direct, grad_u, grad_A, grad_dt)
    _run("linoss_scan_backward", _BACKWARD, rows, u, A, dt, cu_seqlens, discretization, direct, *others)
    return (
        grad_u.to(u.dtype),
        grad_A.sum(0).to(gradient_dtype(A, u)),
        grad_dt.sum(0).to(gradient_dtype(dt, u)),
        carry,
    )


def step_(u: Tensor, A: Tensor, dt: Tensor, state: Tensor, discretization: str) -> Tensor:
    """One step, ``[B, D]``; the state is overwritten, the positions returned."""
    positions = torch.empty(u.shape)
    written = (state, None, positions)
    step = u.unsqueeze(1)
    _run("linoss_scan_forward", _FORWARD, u.shape[0], step, A, dt, None, discretization, None, *written)
    return positions.to(u.dtype)


def saved_shape(shape: tuple[int, ...], cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    """``[spans, D, 2]`` of u ``[B, T, D]``; of packed sequences as many spans as there can be."""
    batch, length, width = shape
    if cu_seqlens is None:
        return batch * -(-length // _SPAN), width, 2
    return length // _SPAN + cu_seqlens.shape[0] - 1, width, 2


def _run(
    kernel: str,
    cost: float,
    rows: int,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    cu_seqlens: Tensor | None,
    discretization: str,
    direct: Tensor | None,
    *tensors: Tensor | None,
) -> None:
    u = side_by_side(u)
    units, vectors = units_of_rows("linoss_scan", rows, u.shape[2])
    strides = (*u.stride()[:2], *((0, 0) if direct is None else direct.stride()[:2]))
    sizes = (rows, *u.shape[1:], vectors, discretization == "implicit", *strides)
    offsets = None if cu_seqlens is None else cu_seqlens.long().contiguous()
    read = (u, A.double().contiguous(), dt.double().contiguous(), offsets)
    call("linoss_scan", kernel, units, cost * u.numel(), sizes, (*read, *tensors))
