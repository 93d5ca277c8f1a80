"""What changes the lengths of complex numbers and leaves their phases alone: a norm, a rectifier."""

import torch
from torch import Tensor, nn

from phasefield_kernels import phase_norm
from phasefield_kernels.phase_linear.reference import EPSILON


class PhaseRMSNorm(nn.Module):
    """``w · x / √(mean_d |x_d|² + eps)`` with real weights w, and modReLU behind it if asked for, in one op.

    Equivariant under a turn of the whole row; with positive weights every phase stays.

    Args:
        dim: complex channels.
        threshold: modReLU's first threshold; None for the norm alone.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, *, threshold: float | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim is {dim}; it must be at least 1.")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.threshold = None if threshold is None else nn.Parameter(torch.full((dim,), threshold))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, dim, 2]`` → the same."""
        return phase_norm(x, self.weight, self.threshold, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, activation={self.threshold is not None}, eps={self.eps}"


class ModReLU(nn.Module):
    """``relu(m + t) · z / m`` with ``m = √(|z|² + 1e-8)``: shortens numbers, by t < 0, and turns none.

    Equivariant, channel by channel: each number may be turned by an angle of its own. Behind a linear map or
    a norm it costs nothing extra as an argument of these (``PhaseLinear``, ``PhaseRMSNorm``).

    Args:
        dim: complex channels.
        threshold: t at the start.

    Source: M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", 2016.
    """

    def __init__(self, dim: int, *, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.full((dim,), threshold))

    def forward(self, z: Tensor) -> Tensor:
        """``[…, dim, 2]`` → the same."""
        modulus = (z.square().sum(-1) + EPSILON**2).sqrt()
        return z * (torch.relu(modulus + self.threshold) / modulus).unsqueeze(-1).to(z.dtype)

    def extra_repr(self) -> str:
        return str(self.threshold.shape[0])
