"""What stays for a while: the language a text is in, and its emotion, both heard from the text itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import rotation_scan

from ....layers import PhaseLinear, phase_product
from ..interfaces import Bank
from ..registry import register_bank
from .semantic import Concepts
from .trunk import Trunk, entry


class _Mood(Bank):
    """Weighs prototypes by their coherence with a running mean ``m_t = (1 − 1/n) m_{t-1} + x_t / n``."""

    def __init__(self, model_dim: int, dim: int, prototypes: int, tokens: float) -> None:
        super().__init__(dim)
        if not tokens > 1:
            raise ValueError(f"tokens is {tokens}; a running mean is over more than 1.")
        self.entry = entry(model_dim, dim)
        self.prototypes = Concepts(prototypes, dim)
        self.trunk = Trunk(dim)
        self.register_buffer("phases", torch.zeros(dim, dtype=torch.int64), persistent=False)
        self.register_buffer("log_decay", torch.full((dim,), 1 - 1 / tokens).log(), persistent=False)
        self.tokens = tokens

    def _weights(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        # A rotation by no angle is a leaky integrator. Coherence does not see lengths: no division by n.
        mean, state = rotation_scan(x, self.phases, self.log_decay, state)
        return self.prototypes(mean), state

    def init_state(self, batch: int) -> Tensor:
        """The running sum, zeros ``[batch, dim, 2]`` in float32 (float64 for a float64 module)."""
        dtype = torch.promote_types(self.prototypes.vectors.dtype, torch.float32)
        return self.prototypes.vectors.new_zeros(batch, self.dim, 2, dtype=dtype)

    def extra_repr(self) -> str:
        return f"tokens={self.tokens}"


@register_bank("language", description="gates for the language that the text so far is in")
class LanguageBank(_Mood):
    """``h = U (x · Σ_n π_n G_n)``: complex gates G, weighed by the language's prototypes; then the trunk.

    The origin takes one language's number for a whole batch; here the weights π are those of the prototypes
    in the running mean of the text, so that no label is needed and a text may change its language.

    Args:
        languages: how many; the origin's default.
        tokens: that the running mean is over.
    """

    def __init__(self, model_dim: int, dim: int, languages: int = 16, tokens: float = 100.0) -> None:
        super().__init__(model_dim, dim, languages, tokens)
        gates = 0.1 * torch.randn(languages, dim, 2)
        gates[..., 0] += 1
        self.gates = nn.Parameter(gates)
        self.gates._no_weight_decay = True
        self.mixer = PhaseLinear(dim, dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        weights, state = self._weights(x, state)
        gate = F.linear(weights, self.gates.flatten(1).T).unflatten(-1, (-1, 2))
        return self.trunk(self.mixer(phase_product(x, gate))), state


@register_bank("emotion", description="moods that last some tokens, by coherence")
class EmotionBank(_Mood):
    """``h = x + Σ_n π_n e_n``: emotions e, weighed by their coherence with the last tokens; then the trunk.

    Args:
        emotions: how many; the origin's default.
        tokens: that the running mean is over.
    """

    def __init__(self, model_dim: int, dim: int, emotions: int = 8, tokens: float = 20.0) -> None:
        super().__init__(model_dim, dim, emotions, tokens)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        weights, state = self._weights(x, state)
        read = F.linear(weights, self.prototypes.vectors.flatten(1).T)
        return self.trunk(x + read.unflatten(-1, (-1, 2))), state
