"""What a token is about."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..interfaces import Bank
from ..registry import register_bank
from .trunk import Trunk, entry


class Concepts(nn.Module):
    """Learned complex vectors, weighed by how coherent an input is with each: ``softmax_n(s · coh(x, M_n))``.

    ``s`` is learned and starts at ``√(2 dim)``, where the scores of random vectors have variance 1.

    Args:
        count: C, number of vectors.
        dim: complex channels.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"the number of concepts is {count}; it must be at least 1.")
        self.vectors = nn.Parameter(2**-0.5 * torch.randn(count, dim, 2))
        self.log_sharpness = nn.Parameter(torch.tensor(0.5 * math.log(2 * dim)))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, dim, 2]`` → weights ``[…, C]``."""
        # The sharpness is put on the vectors, which are fewer than the inputs.
        vectors = F.normalize(self.vectors.flatten(1), dim=-1) * self.log_sharpness.exp()
        return F.linear(F.normalize(x.flatten(-2), dim=-1), vectors).softmax(-1)

    def extra_repr(self) -> str:
        return f"{self.vectors.shape[0]}, {self.vectors.shape[1]}"


@register_bank("semantic", description="attention to concepts by coherence")
class SemanticBank(Bank):
    """``h = x + Σ_n softmax_n(s · coh(x, M_n)) M_n`` over concepts M, then the trunk.

    Args:
        concepts: how many; the origin's default.
    """

    def __init__(self, model_dim: int, dim: int, concepts: int = 512) -> None:
        super().__init__(dim)
        self.entry = entry(model_dim, dim)
        self.concepts = Concepts(concepts, dim)
        self.trunk = Trunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = self.entry(x)
        read = F.linear(self.concepts(x), self.concepts.vectors.flatten(1).T)
        return self.trunk(x + read.unflatten(-1, (-1, 2))), state
