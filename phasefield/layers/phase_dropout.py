"""Dropout of complex numbers."""

from torch import Tensor, nn

from .dropout import kept


class PhaseDropout(nn.Module):
    """Drops whole complex numbers, real and imaginary part by one mask, and scales the others by 1/(1 − p).

    In training only; phases of what stays do not change. Equivariant.

    Args:
        p: probability of a number to be dropped.
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}; it must be at least 0 and below 1.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``[…, D, 2]`` → the same."""
        if not self.training or self.p == 0:
            return x
        return x * kept(x, (*x.shape[:-1], 1), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
