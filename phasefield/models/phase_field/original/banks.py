"""The origin's banks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import PhaseLinear, phase_product
from ..banks.context import with_past
from ..banks.trunk import entry
from ..interfaces import Bank
from ..registry import register_bank
from .frame import OriginalNorm, OriginalTrunk, modulus


@register_bank("original_semantic", description="the origin's, whose attention is not by coherence")
class OriginalSemanticBank(Bank):
    """``h = x + 0.1 Σ_n softmax_n(Re (P x)_n + mean_d Re M_nd) M_n``, then the trunk."""

    def __init__(self, model_dim: int, dim: int, concepts: int = 512) -> None:
        super().__init__(dim)
        self.entry = entry(model_dim, dim)
        self.vectors = nn.Parameter(0.02 * torch.randn(concepts, dim, 2))
        self.scores = PhaseLinear(dim, concepts)
        self.trunk = OriginalTrunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = self.entry(x)
        weights = (self.scores(x)[..., 0] + self.vectors[..., 0].mean(-1)).softmax(-1)
        read = F.linear(weights, self.vectors.flatten(1).T)
        return self.trunk(x + 0.1 * read.unflatten(-1, (-1, 2))), state


@register_bank("original_context", description="the origin's: one weight a distance, and a rotation")
class OriginalContextBank(Bank):
    """``h = x · m/|m|``, ``m = L [x; L local]``, ``local_t = Σ_k softmax(w)_k x_{t−7+k}``; the trunk."""

    def __init__(self, model_dim: int, dim: int, window: int = 8) -> None:
        super().__init__(dim)
        self.window = window
        self.entry = entry(model_dim, dim)
        self.weights = nn.Parameter(torch.zeros(window))
        self.local = PhaseLinear(dim, dim)
        self.merge = PhaseLinear(2 * dim, dim)
        self.trunk = OriginalTrunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        extended, state = with_past(x, state, self.window - 1)
        local = torch.zeros_like(x)
        for begin, weight in enumerate(self.weights.softmax(0).unbind()):
            local = torch.addcmul(local, extended[:, begin : begin + x.shape[1]], weight)
        m = self.merge(torch.cat([x, self.local(local)], dim=-2))
        return self.trunk(phase_product(x, m / modulus(m).unsqueeze(-1))), state

    def init_state(self, batch: int) -> Tensor:
        """The window's earlier inputs, zeros."""
        return self.local.weight.new_zeros(batch, self.window - 1, self.dim, 2)


@register_bank("original_language", description="the origin's: one language's gate for all of a text")
class OriginalLanguageBank(Bank):
    """``h = U (x · G) + 0.5 L (x · G)`` with the gate G of one language, 1 at the start; then the trunk."""

    def __init__(self, model_dim: int, dim: int, languages: int = 16, language: int = 0) -> None:
        super().__init__(dim)
        if not 0 <= language < languages:
            raise ValueError(f"language is {language}; it must be at least 0 and below {languages}.")
        self.language = language
        self.entry = entry(model_dim, dim)
        self.gates = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(languages, dim, 1))
        self.common = PhaseLinear(dim, dim)
        self.own = PhaseLinear(dim, dim)
        self.trunk = OriginalTrunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        gated = phase_product(self.entry(x), self.gates[self.language])
        return self.trunk(self.common(gated) + 0.5 * self.own(gated)), state


@register_bank("original_emotion", description="the origin's placeholder")
class OriginalEmotionBank(Bank):
    """``L norm(x + 0.1 Σ_n softmax_n(Re (E x)_n) e_n)``."""

    def __init__(self, model_dim: int, dim: int, emotions: int = 8) -> None:
        super().__init__(dim)
        self.entry = entry(model_dim, dim)
        self.vectors = nn.Parameter(0.02 * torch.randn(emotions, dim, 2))
        self.scores = PhaseLinear(dim, emotions)
        self.norm = OriginalNorm(dim)
        self.output = PhaseLinear(dim, dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = self.entry(x)
        read = F.linear(self.scores(x)[..., 0].softmax(-1), self.vectors.flatten(1).T)
        return self.output(self.norm(x + 0.1 * read.unflatten(-1, (-1, 2)))), state
