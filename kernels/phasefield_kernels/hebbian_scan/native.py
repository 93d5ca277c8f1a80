"""A decoding step of hebbian_scan in C (native.c); whole sequences are matrix products, which torch has."""

import torch
from torch import Tensor

from ..native import call, plain

_COST = 0.3  # nanoseconds a number of the state


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    batch, heads, columns = q.shape[:3]
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(batch, heads)
    y = torch.empty(v.shape)
    sizes = (batch * heads, v.shape[2], columns, q.ndim == 4, delta)
    tensors = (plain(q), plain(k), plain(v), plain(log_decay), plain(beta), state, y)
    call("hebbian_scan", "hebbian_scan_step", batch * heads, _COST * state.numel(), sizes, tensors)
    return y if y.dtype == q.dtype else y.to(q.dtype)
