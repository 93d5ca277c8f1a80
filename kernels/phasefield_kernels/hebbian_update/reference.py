"""The definition of hebbian_update_."""

import torch
from torch import Tensor

from ..checks import state_dtype
from .rounding import assign_


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
    w, y, x = (tensor.to(state_dtype(weight)) for tensor in (weight, post, pre))
    count = max(1, post.shape[0])
    change = y.T @ x / count
    if rule == "oja":
        change = change - (y.square().sum(0) / count).unsqueeze(1) * w
    elif rule == "oja_subspace":
        change = change - (y.T @ y / count) @ w
    w = decay * w + rate * change
    if max_norm is not None:
        length = torch.linalg.vector_norm(w, dim=1 if norm == "row" else None, keepdim=norm == "row")
        w = torch.where(length > max_norm, w * (max_norm / length), w)
    assign_(weight, w, seed)
