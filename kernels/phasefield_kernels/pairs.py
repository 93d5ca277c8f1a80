"""Pairs (real, imaginary) as torch's complex numbers, for the forms in PyTorch."""

import torch
from torch import Tensor


def as_complex(x: Tensor) -> Tensor:
    """``[…, 2]`` as complex ``[…]``: a view where strides allow it; two-byte floats become float32."""
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    paired = x.stride(-1) == 1 and x.storage_offset() % 2 == 0 and all(s % 2 == 0 for s in x.stride()[:-1])
    return torch.view_as_complex(x if paired else x.clone(memory_format=torch.contiguous_format))
