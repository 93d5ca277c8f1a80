"""How tensors are seen before a clock starts: wide, complex, or with time last."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..operation import Inputs


def wide(tensor: Tensor) -> Tensor:
    """float32 for what is shorter: everybody's states are float32."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def as_complex(tensor: Tensor) -> Tensor:
    """``[…, 2]`` as complex numbers."""
    return torch.view_as_complex(wide(tensor).contiguous())


def as_pairs(numbers: Tensor, like: Tensor) -> Tensor:
    """Complex numbers as ``[…, 2]`` in a tensor's dtype."""
    return torch.view_as_real(numbers).to(like.dtype)


def channels_first(names: tuple[str, ...]) -> Callable[..., Inputs]:
    """A layout with time last, ``[B, T, D]`` → ``[B, D, T]``, for the named inputs."""

    def layout(**inputs: Tensor) -> Inputs:
        return {
            name: tensor.transpose(1, 2).contiguous() if name in names else tensor
            for name, tensor in inputs.items()
        }

    return layout
