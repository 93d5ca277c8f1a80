"""The definition of gravity_field: every difference by itself, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype


def gravity_field(
    x: Tensor,
    mass: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    source: Tensor | None,
    window: int | None,
) -> Tensor:
    """``F_i = g Σ_j m_j (s_j − x_i) (|s_j − x_i|² + ε²)^{-3/2}``; shapes as in the public function."""
    dtype = state_dtype(x)
    points = x.to(dtype)
    sources = points if source is None else source.to(dtype)
    before = 0 if source is None else source.shape[1]
    # ago_ij: how many tokens before point i source j is.
    ago = torch.arange(x.shape[1], device=x.device).unsqueeze(1) + before
    ago = ago - torch.arange(sources.shape[1], device=x.device)
    pulls = ago > 0 if causal or source is not None else ago != 0
    if window is not None:
        pulls = pulls & (ago.abs() <= window)
    difference = sources.unsqueeze(1) - points.unsqueeze(2)
    weight = (difference.square().sum(-1) + softening**2) ** -1.5 * pulls
    if mass is not None:
        weight = weight * mass.to(dtype).unsqueeze(1)
    return (strength * (weight.unsqueeze(-1) * difference).sum(2)).to(x.dtype)
