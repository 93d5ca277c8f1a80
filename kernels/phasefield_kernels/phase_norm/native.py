"""phase_norm in C (native.c): how its tensors are given, and what is added up over rows."""

import torch
from torch import Tensor

from ..native import call, plain, side_by_side

_ROWS = 32  # native.c's ROWS
_FORWARD, _BACKWARD = 0.7, 1.5  # nanoseconds a complex number


def forward(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float) -> Tensor:
    """Values, in x's dtype."""
    y = torch.empty(x.shape)
    _run("phase_norm_forward", _FORWARD, x, None, weight, threshold, eps, y)
    return y.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to x, weight and threshold; the mathematics is in blocked.py."""
    blocks, width = -(-x.shape[:-2].numel() // _ROWS), x.shape[-2]
    grad_x, grad_weight = torch.empty(x.shape), torch.empty(blocks, width)
    grad_threshold = None if threshold is None else torch.empty(blocks, width)
    written = (grad_x, grad_weight, grad_threshold)
    _run("phase_norm_backward", _BACKWARD, x, grad, weight, threshold, eps, None, *written)
    grad_threshold = None if threshold is None else grad_threshold.sum(0)
    return grad_x.to(x.dtype), grad_weight.sum(0), grad_threshold


def _run(
    kernel: str,
    cost: float,
    x: Tensor,
    grad: Tensor | None,
    weight: Tensor,
    threshold: Tensor | None,
    eps: float,
    y: Tensor | None,
    *written: Tensor | None,
) -> None:
    rows, width = x.shape[:-2].numel(), x.shape[-2]
    x, grad = (None if t is None else side_by_side(t.reshape(rows, width, 2), 2) for t in (x, grad))
    sizes = (rows, width, x.stride(0), 0 if grad is None else grad.stride(0))
    tensors = (x, plain(weight), plain(threshold), torch.tensor([eps]), y, grad, *written)
    call("phase_norm", kernel, -(-rows // _ROWS), cost * rows * width, sizes, tensors)
