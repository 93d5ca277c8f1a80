"""hebbian_scan by the delta rule in C (native_delta.c): how its tensors are given, and what is added up."""

import math

import torch
from torch import Tensor

from ..native import call, plain, side_by_side
from .inputs import Inputs
from .native import OP, decay_of

_FORWARD, _BACKWARD = 0.08, 0.2  # nanoseconds a step and real product of the state
_SEGMENT = 256  # native_delta.c's SEGMENT


def kept_numel(q_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> int:
    """Floats of the states between segments; room for one too many if a segment ends with the sequence."""
    batch, length, heads, *column_numbers = q_shape
    return batch * (length // _SEGMENT) * heads * v_shape[3] * math.prod(column_numbers)


def forward(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Values; kept are the states between segments, in the C's own order."""
    y, final = torch.empty(inputs.v.shape), torch.empty(inputs.state_shape)
    kept = torch.empty(kept_numel(inputs.q.shape, inputs.v.shape))
    _run("hebbian_delta_forward", _FORWARD, inputs, None, (y, final, kept))
    return y.to(inputs.q.dtype), final, kept


def backward(
    grad_y: Tensor, grad_final: Tensor, kept: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients; the mathematics is in blocked.py."""
    grads = tuple(torch.empty(tensor.shape) for tensor in inputs[:3])
    grad_decay, grad_beta = (
        None if tensor is None else torch.empty(inputs.q.shape[:3]) for tensor in inputs[3:5]
    )
    grad_initial = torch.empty(inputs.state_shape)
    results = (kept, plain(grad_final), *grads, grad_decay, grad_beta, grad_initial)
    _run("hebbian_delta_backward", _BACKWARD, inputs, grad_y, (None, None, *results))
    if grad_decay is not None and inputs.log_decay.ndim == 1:
        grad_decay = grad_decay.sum((0, 1))
    return *(grad.to(inputs.q.dtype) for grad in grads), grad_decay, grad_beta, grad_initial


def _run(
    kernel: str, cost: float, inputs: Inputs, grad_y: Tensor | None, results: tuple[Tensor | None, ...]
) -> None:
    q, k, v, grad_y = (side_by_side(t, inputs.q.ndim - 3) for t in (*inputs[:3], grad_y))
    decay = decay_of(inputs)
    beta = None if inputs.beta is None else inputs.beta.float()
    rows, heads, width, columns = inputs.state_shape[:4]
    by_stride = (q, k, v, decay, beta, grad_y)
    strides = [0 if t is None else t.stride(axis) for t in by_stride for axis in range(3)]
    sizes = (rows, heads, q.shape[1], width, columns, q.ndim == 5, *strides)
    offsets = None if inputs.cu_seqlens is None else inputs.cu_seqlens.long().contiguous()
    tensors = (q, k, v, decay, beta, plain(inputs.initial_state), offsets, grad_y, *results)
    call(OP, kernel, rows * heads, cost * v.numel() * columns * (q.ndim - 3), sizes, tensors)
