"""Linear maps, embeddings and likeness of complex vectors; a number is a last axis (real, imaginary).

Layers of this family map ``[…, D, 2]`` to ``[…, D', 2]`` and keep no state. Which commute with a turn of all
their inputs by one angle (are *equivariant*) is said at each.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import phase_linear
from phasefield_kernels.pairs import as_complex


class PhaseLinear(nn.Module):
    """A complex linear map, ``y = W x + b``, and modReLU behind it if asked for, in one op.

    Equivariant without a bias (modReLU is); a bias is a direction of its own. Weights start normal with
    ``E|w|² = gain² / in_dim``, which keeps the mean square, biases at 0, thresholds at ``threshold``.

    Args:
        in_dim, out_dim: complex channels.
        bias: add b.
        threshold: modReLU's first threshold, ``relu(m + t) · z / m``; None for a linear map.
        gain: of the weights' first length.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        bias: bool = True,
        threshold: float | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if min(in_dim, out_dim) < 1:
            raise ValueError(f"in_dim and out_dim are {in_dim} and {out_dim}; each must be at least 1.")
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.weight = nn.Parameter(gain * (2 * in_dim) ** -0.5 * torch.randn(out_dim, in_dim, 2))
        self.bias = nn.Parameter(torch.zeros(out_dim, 2)) if bias else None
        self.threshold = None if threshold is None else nn.Parameter(torch.full((out_dim,), threshold))
        if self.bias is not None:
            self.bias._no_weight_decay = True

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[…, in_dim, 2]`` → ``[…, out_dim, 2]``; a residual like the output is added last."""
        return phase_linear(x, self.weight, self.bias, self.threshold, residual)

    def extra_repr(self) -> str:
        return (
            f"{self.in_dim}, {self.out_dim}, bias={self.bias is not None}, "
            f"activation={self.threshold is not None}"
        )


class PhaseEmbedding(nn.Module):
    """A complex vector for each of ``num_embeddings`` symbols, N(0, std²) in each part.

    Args:
        num_embeddings: V.
        dim: complex channels.
        std: of each part at the start; the origin's default.
    """

    def __init__(self, num_embeddings: int, dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        if min(num_embeddings, dim) < 1:
            raise ValueError(
                f"num_embeddings and dim are {num_embeddings} and {dim}; each must be at least 1."
            )
        self.weight = nn.Parameter(std * torch.randn(num_embeddings, dim, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[…]`` int64 → ``[…, dim, 2]``."""
        return F.embedding(tokens, self.weight.flatten(1)).unflatten(-1, (-1, 2))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


def phase_product(x: Tensor, y: Tensor) -> Tensor:
    """Complex ``x · y``, number by number, broadcast; in the wider of the two dtypes."""
    if torch.compiler.is_compiling():  # a compiler fuses real arithmetic, and knows no complex one
        xr, xi = x.unbind(-1)
        yr, yi = y.unbind(-1)
        return torch.stack([xr * yr - xi * yi, xr * yi + xi * yr], dim=-1)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return torch.view_as_real(as_complex(x) * as_complex(y)).to(dtype)


def phase_coherence(a: Tensor, b: Tensor, *, eps: float = 1e-8) -> Tensor:
    """How alike two complex vectors are, phases included: ``Re Σ_d a_d conj(b_d) / (‖a‖ ‖b‖)``, in [−1, 1].

    ‖·‖ is the Euclidean length, so that a vector's coherence with itself is 1; turning both vectors by one
    angle changes nothing, turning one by α multiplies what is real in it by cos α.

    Args:
        a, b: ``[…, D, 2]``, broadcast.
        eps: below which a length counts as eps.

    Returns:
        ``[…]``.
    """
    return F.cosine_similarity(a.flatten(-2), b.flatten(-2), dim=-1, eps=eps)
