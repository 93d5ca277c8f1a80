"""hebbian_update_ in fast PyTorch: products added to the weight itself, 16-bit activity a block at a time.

A float32 or float64 weight is scaled and added to in place by ``addmm_``, with no other matrix of its size
but for the subspace rule. CPUs round a 16-bit product to 16 bits, which would round the update before it is
added: 16-bit activity is widened, a few rows at a time so that they stay in the cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import state_dtype
from .rounding import assign_

_BLOCK = 1 << 18  # numbers of activity that are widened at a time


def update_(
    weight: Tensor,
    post: Tensor,
    pre: Tensor,
    rate: float,
    decay: float,
    rule: str,
    max_norm: float | None,
    norm: str,
    seed: int | None,
) -> None:
    """``W ← λ W + η ΔW``, bounded and rounded; shapes and rules as in the public function."""
    w = weight.to(state_dtype(weight))  # the weight itself, if that is its dtype
    scale = rate / max(1, post.shape[0])
    if rule == "oja":
        squares = torch.zeros(weight.shape[0], dtype=w.dtype, device=w.device)
        for y, _ in _widened(post, pre, w.dtype):
            squares += y.square().sum(0)
        w.mul_((decay - scale * squares).unsqueeze(1))
    elif rule == "oja_subspace":
        gram = torch.zeros(2 * weight.shape[:1], dtype=w.dtype, device=w.device)
        for y, _ in _widened(post, pre, w.dtype):
            gram.addmm_(y.T, y)
        change = gram @ w
        w.mul_(decay).sub_(change, alpha=scale)
    else:
        w.mul_(decay)
    for y, x in _widened(post, pre, w.dtype):
        w.addmm_(y.T, x, alpha=scale)
    if max_norm is not None:
        length = torch.linalg.vector_norm(w, dim=1 if norm == "row" else None, keepdim=norm == "row")
        w.mul_((max_norm / length).clamp_max_(1))
    assign_(weight, w, seed)


def _widened(post: Tensor, pre: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    # Blocks of rows of both; all rows at once where nothing is to be widened.
    rows = post.shape[0]
    step = rows if post.dtype == dtype else _BLOCK // (post.shape[1] + pre.shape[1])
    for begin in range(0, rows, max(1, step)):
        yield tuple(x[begin : begin + max(1, step)].to(dtype) for x in (post, pre))
