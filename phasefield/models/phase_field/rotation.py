"""Rotation by sine and cosine at every token, for comparison with Cayley's."""

import torch
from torch import Tensor, nn

from ...layers import phase_product


class TrigRotation(nn.Module):
    """Turns each complex channel by a learned angle, its sine and cosine taken anew for every token.

    Args:
        dim: complex channels.
        std: of the angles at the start: twice that of a :class:`~phasefield.layers.CayleyRotation`'s a.
    """

    def __init__(self, dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        self.angles = nn.Parameter(std * torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, dim, 2]`` → the same."""
        angle = self.angles.expand(x.shape[:-1])
        return phase_product(x, torch.stack([angle.cos(), angle.sin()], dim=-1).to(x.dtype))

    def extra_repr(self) -> str:
        return str(self.angles.shape[0])
