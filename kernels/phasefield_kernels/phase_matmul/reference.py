"""The definition of phase_matmul: four real products, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype


def phase_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of complex matrices ``[…, M, K, 2]`` and ``[…, K, N, 2]``."""
    dtype = state_dtype(a)
    ar, ai = a.to(dtype).unbind(-1)
    br, bi = b.to(dtype).unbind(-1)
    return torch.stack([ar @ br - ai @ bi, ar @ bi + ai @ br], dim=-1).to(a.dtype)
