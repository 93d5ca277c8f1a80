"""Rotation without trigonometry."""

import torch
from torch import Tensor, nn

from .phase import phase_product


def cayley(a: Tensor) -> Tensor:
    """The unit numbers ``(1 + i a) / (1 − i a)``, of phase ``2 atan a``: ``[…]`` → ``[…, 2]``.

    Rational in a: 0 is no rotation, a and −a undo each other, and ±∞ alone is half a turn.
    """
    square = a * a
    return torch.stack([1 - square, 2 * a], dim=-1) / (1 + square).unsqueeze(-1)


class CayleyRotation(nn.Module):
    """Turns each complex channel by a learned angle ``2 atan a_d``: the origin's "iota block".

        ``z_d ← (1 − a_d²)/(1 + a_d²) z_d + 2 a_d/(1 + a_d²) · i z_d``

    Lengths stay, exactly but for rounding. Equivariant.

    Args:
        dim: complex channels.
        std: of a at the start.
    """

    def __init__(self, dim: int, *, std: float = 0.01) -> None:
        super().__init__()
        self.a = nn.Parameter(std * torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, dim, 2]`` → the same."""
        return phase_product(x, cayley(self.a).to(x.dtype))

    def angle(self) -> Tensor:
        """Radians a channel, in (−π, π)."""
        return 2 * torch.atan(self.a)

    def extra_repr(self) -> str:
        return str(self.a.shape[0])
