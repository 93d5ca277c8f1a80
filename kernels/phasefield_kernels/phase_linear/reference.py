"""The definition of phase_linear: four real products, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype

EPSILON = 1e-4
"""Of modReLU's modulus ``√(|z|² + ε²)``: the one Phase2D's modulus has."""


def phase_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, threshold: Tensor | None, residual: Tensor | None
) -> Tensor:
    """``modReLU(W x + b) + residual``; shapes as in the public function."""
    dtype = state_dtype(x)
    xr, xi = x.to(dtype).unbind(-1)
    wr, wi = weight.to(x.dtype).to(dtype).unbind(-1)
    y = torch.stack([xr @ wr.T - xi @ wi.T, xr @ wi.T + xi @ wr.T], dim=-1)
    if bias is not None:
        y = y + bias.to(dtype)
    if threshold is not None:
        modulus = (y.square().sum(-1) + EPSILON**2).sqrt()
        y = y * (torch.relu(modulus + threshold.to(dtype)) / modulus).unsqueeze(-1)
    if residual is not None:
        y = y + residual.to(dtype)
    return y.to(x.dtype)
