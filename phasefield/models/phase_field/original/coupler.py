"""The origin's coupler, and the loss that pulls its banks together."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from ....layers import PhaseLinear, phase_product
from ..interfaces import Coupler, Objective, Outcome
from ..registry import register_coupler, register_objective
from .frame import OriginalNorm, modulus


@register_coupler("original_interference", description="the origin's first, with a cross term")
class OriginalCoupler(Coupler):
    """``L norm(Σ_k ω_k p_k + 0.1 L [p_1; …; p_K])``, ``p_k = L_k bank_k``, ω complex and 1/K at the start."""

    def __init__(self, dim: int, bank_dims: Sequence[int]) -> None:
        super().__init__()
        count = len(bank_dims)
        self.projections = nn.ModuleList(PhaseLinear(bank_dim, dim) for bank_dim in bank_dims)
        self.weights = nn.Parameter(torch.tensor([1 / count, 0.0]).repeat(count, dim, 1))
        self.cross = PhaseLinear(count * dim, dim)
        self.norm = OriginalNorm(dim)
        self.output = PhaseLinear(dim, dim)

    def forward(self, outputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        parts = [projection(y) for projection, y in zip(self.projections, outputs, strict=True)]
        combined = sum(phase_product(part, w) for part, w in zip(parts, self.weights, strict=True))
        combined = combined + 0.1 * self.cross(torch.cat(parts, dim=-2))
        return self.output(self.norm(combined)), parts


@register_objective("original_coupling", description="the origin's first: smallest where all banks are one")
class OriginalCoupling(Objective):
    """Minus the mean of ``Σ_d Re(a conj b) / (Σ|a| Σ|b|)`` over pairs of banks' parts and tokens."""

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__(weight)

    def forward(self, outcome: Outcome) -> Tensor:
        pairs = [
            (a * b).sum((-2, -1)) / (modulus(a).sum(-1) * modulus(b).sum(-1))
            for a, b in combinations(outcome.parts, 2)
        ]
        if not pairs:
            return outcome.hidden.new_zeros((), dtype=torch.float32)
        return -torch.stack(pairs).float().mean()
