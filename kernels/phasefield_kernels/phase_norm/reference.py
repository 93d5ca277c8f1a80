"""The definition of phase_norm: a formula a line, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..phase_linear.reference import EPSILON


def phase_norm(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float) -> Tensor:
    """``modReLU(w · x / √(mean |x|² + eps))``; shapes as in the public function."""
    dtype = state_dtype(x)
    z = x.to(dtype)
    mean = z.square().sum(-1, keepdim=True).mean(-2, keepdim=True)
    z = z * weight.to(dtype).unsqueeze(-1) * (mean + eps).rsqrt()
    if threshold is not None:
        modulus = (z.square().sum(-1) + EPSILON**2).sqrt()
        z = z * (torch.relu(modulus + threshold.to(dtype)) / modulus).unsqueeze(-1)
    return z.to(x.dtype)
