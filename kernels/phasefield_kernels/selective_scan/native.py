"""selective_scan in C (native.c), for real A: how its tensors are given, and what is added up after it.

Two-byte inputs are read as float32 copies. Sequences, steps and groups are read through their strides; where
channels or states do not lie side by side, they are copied.
"""

import torch
from torch import Tensor

from ..native import call, lanes, plain, side_by_side
from .tiles import Inputs

_SPAN, _VECTORS = 16, 4  # native.c's SPAN and VECTORS
_FORWARD, _BACKWARD = 0.4, 1.2  # nanoseconds a state


def forward(
    inputs: Inputs, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(y, final_state, starts)``: starts are the states at the spans' starts, flat, for the backward."""
    x, A = inputs.x, inputs.A
    scan = _Scan(inputs, cu_seqlens)
    final = torch.zeros(scan.rows, *A.shape)
    if initial_state is not None:
        final.copy_(initial_state)
    starts = torch.empty(saved_numel(x.shape, A.shape, cu_seqlens))
    y = torch.empty(x.shape)
    scan.run("selective_scan_forward", _FORWARD, scan.units, final, starts, y)
    return y.to(x.dtype), final, starts


def backward(
    grad_y: Tensor, grad_final: Tensor, starts: Tensor, inputs: Inputs, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients to x, dt, B, C, z, A, D, dt_bias (None for those not given) and initial_state.

    The mathematics is in blocked.py.
    """
    scan = _Scan(inputs, cu_seqlens)
    carry = grad_final.clone(memory_format=torch.contiguous_format)
    dy = side_by_side(grad_y)
    scan.sizes["dy_row"], scan.sizes["dy_time"] = dy.stride()[:2]

    def room(tensor: Tensor | None, *lead: int) -> Tensor | None:
        return None if tensor is None else torch.empty(*lead, *tensor.shape)

    x, dt, z = (room(t) for t in (inputs.x, inputs.dt, inputs.z))
    parts = [room(t, scan.blocks) for t in (inputs.B, inputs.C)]
    parts += [room(t, scan.rows) for t in (inputs.A, inputs.D, inputs.dt_bias)]
    scan.run("selective_scan_backward", _BACKWARD, scan.units, carry, starts, None, dy, x, dt, z, *parts)
    B, C, A, D, dt_bias = (None if part is None else part.sum(0) for part in parts)
    grads = zip((x, dt, B, C, z, A, D, dt_bias), inputs[:8], strict=True)
    return *(None if grad is None else grad.to(given.dtype) for grad, given in grads), carry


def step_(inputs: Inputs, state: Tensor) -> Tensor:
    """One step, inputs with T = 1; the contiguous state is overwritten, the output ``[B, 1, D]`` returned."""
    y = torch.empty(inputs.x.shape)
    _Scan(inputs, None).run("selective_scan_step", _FORWARD, state.shape[0], state, None, y)
    return y.to(inputs.x.dtype)


def saved_numel(shape: tuple[int, ...], A_shape: tuple[int, ...], cu_seqlens: Tensor | None) -> int:
    """Floats of the start states, x ``[B, T, D]``; of packed sequences as many as there can be."""
    batch, length, _ = shape
    if cu_seqlens is None:
        spans = batch * -(-length // _SPAN)
    else:
        spans = length // _SPAN + cu_seqlens.shape[0] - 1
    return spans * A_shape[0] * A_shape[1]


class _Scan:
    """One call's inputs as the kernels take them."""

    def __init__(self, inputs: Inputs, cu_seqlens: Tensor | None) -> None:
        x, dt, B, C, z = (side_by_side(tensor) for tensor in inputs.pieces())
        self.inputs = (x, dt, B, C, z, plain(inputs.A), plain(inputs.D), plain(inputs.dt_bias))
        self.offsets = None if cu_seqlens is None else cu_seqlens.long().contiguous()
        self.rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        groups = B.shape[2] if B.ndim == 4 else 1
        block = _VECTORS * lanes("selective_scan")
        self.blocks = -(-x.shape[2] // groups // block)
        self.units = self.rows * groups * self.blocks
        self.sizes = {
            **{"rows": self.rows, "length": x.shape[1], "width": x.shape[2]},
            **{"groups": groups, "states": inputs.A.shape[1], "softplus": inputs.dt_softplus},
            **{"x_row": x.stride(0), "x_time": x.stride(1), "dt_row": dt.stride(0), "dt_time": dt.stride(1)},
            **{"z_row": 0 if z is None else z.stride(0), "z_time": 0 if z is None else z.stride(1)},
            **{"dy_row": 0, "dy_time": 0},
            **{"B_row": B.stride(0), "B_time": B.stride(1), "B_group": B.stride(2) if B.ndim == 4 else 0},
            **{"C_row": C.stride(0), "C_time": C.stride(1), "C_group": C.stride(2) if C.ndim == 4 else 0},
        }

    def run(self, kernel: str, cost: float, units: int, *tensors: Tensor | None) -> None:
        """Run a kernel whose further tensors, from the state on, are these."""
        states = self.inputs[0].numel() * self.sizes["states"]
        tensors = (*self.inputs, self.offsets, *tensors)
        call("selective_scan", kernel, units, cost * states, tuple(self.sizes.values()), tensors)
