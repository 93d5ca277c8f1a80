"""The definition of phase_matmul: four real products, differentiated by autograd."""

import torch
from torch import Tensor


def phase_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of complex matrices ``[…, M, K, 2]`` and ``[…, K, N, 2]``."""
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    ar, ai = a.to(dtype).unbind(-1)
    br, bi = b.to(dtype).unbind(-1)
    return torch.stack([ar @ br - ai @ bi, ar @ bi + ai @ br], dim=-1).to(a.dtype)
