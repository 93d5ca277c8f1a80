"""Landauer LLM: an aperiodic recurrent network on characters, with a price on changing state."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import AperiodicLRU, AperiodicRNN, ThermodynamicInertiaLoss
from ..layers.rms_norm import RMSNorm
from .base import ModelLoss


@dataclass(frozen=True)
class LandauerConfig:
    """The model's shape and its energy term; the defaults are the origin's command line.

    Raises:
        ValueError: a value out of range, also of a field that the chosen cell does not read.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    embed_dim: int = 64
    """width of the token embedding"""
    hidden_dim: int = 256
    """units a layer"""
    num_layers: int = 2
    """recurrent layers"""
    phase_scaling: float = 2.0
    """each layer's golden angle is the one below divided by this"""
    cell: Literal["aperiodic", "lru"] = "aperiodic"
    """aperiodic: the faithful nonlinear cell; lru: its linear sibling with a true rotation over time"""
    bound_scale: bool = False
    """keep the aperiodic cell's hidden scale under 1 in magnitude"""
    dropout: float = 0.2
    """in the lru cell's blocks; the aperiodic cell has none"""
    temperature: float = 0.05
    """of the energy term (sampling has a temperature of its own, in `generate`)"""
    energy_weight: float = 0.1
    """of the energy term in the total loss"""

    def __post_init__(self) -> None:
        allowed = {
            "embed_dim": (self.embed_dim >= 1, "at least 1"),
            "hidden_dim": (self.hidden_dim >= 1, "at least 1"),
            "num_layers": (self.num_layers >= 1, "at least 1"),
            "phase_scaling": (0 < self.phase_scaling < math.inf, "above 0 and finite"),
            "cell": (self.cell in ("aperiodic", "lru"), "'aperiodic' or 'lru'"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
            "temperature": (0 <= self.temperature < math.inf, "at least 0 and finite"),
            "energy_weight": (0 <= self.energy_weight < math.inf, "at least 0 and finite"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}.")


class Landauer(nn.Module):
    """Embedding → recurrent stack → linear head on the top state, for all steps at once.

    With the default cell the function is exactly the origin's: no residuals, no norms, no dropout, the
    embedding N(0, 1). ``cell="lru"`` puts residual blocks of the linear sibling in the stack's place.
    """

    def __init__(self, config: LandauerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        if config.cell == "aperiodic":
            self.stack: nn.Module = AperiodicRNN(
                config.embed_dim,
                config.hidden_dim,
                config.num_layers,
                phase_scaling=config.phase_scaling,
                bound_scale=config.bound_scale,
            )
        else:
            self.stack = _LRUStack(config)
        self.head = nn.Linear(config.hidden_dim, config.vocab_size)
        self.inertia = ThermodynamicInertiaLoss(config.temperature, config.energy_weight)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits ``[B, T, vocab_size]`` of what follows each of ``tokens`` ``[B, T]``, and the state."""
        hidden, state = self._hidden(tokens, state)
        return self.head(hidden), state

    def step(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token ``[B]`` → logits ``[B, vocab_size]``; for decoding: overwrites ``state``, returns it."""
        hidden, state = self.stack.step(self.embedding(token), state)
        return self.head(hidden), state

    def init_state(self, batch: int) -> Tensor:
        """The zero state: ``[L, batch, hidden_dim]``; for the lru cell ``[L, batch, hidden_dim // 2, 2]``."""
        return self.stack.init_state(batch)

    def loss(self, tokens: Tensor, targets: Tensor, state: Tensor | None = None) -> ModelLoss:
        """Mean cross-entropy of ``targets`` ``[B, T]`` plus the weighted energy of the top layer's output."""
        hidden, state = self._hidden(tokens, state)
        logits = self.head(hidden)
        content = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        total, energy = self.inertia(content, hidden)
        return ModelLoss(total, {"content": content.detach(), "energy": energy.detach()}, state)

    def _hidden(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if tokens.numel() < self.config.vocab_size:
            return self.stack(self.embedding(tokens), state)
        # More tokens than symbols: project each symbol once, then gather.
        table = self.stack.project_table(self.embedding.weight)
        return self.stack.forward_projected(F.embedding(tokens, table), state)


class _LRUStack(nn.Module):
    """Projection to the hidden width, residual LRU blocks, and a norm on what leaves them."""

    def __init__(self, config: LandauerConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.embed_dim, config.hidden_dim)
        self.blocks = nn.ModuleList(
            # Memories of one to twenty tokens: with the layer's own, of ten to a thousand, the stack learns
            # more of its text by heart.
            AperiodicLRU(
                config.hidden_dim,
                layer=layer,
                phase_scaling=config.phase_scaling,
                min_radius=0.1,
                max_radius=0.95,
                dropout=config.dropout,
            )
            for layer in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_dim)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.forward_projected(self.project_table(x), state)

    def project_table(self, table: Tensor) -> Tensor:
        return self.projection(table)

    def forward_projected(self, hidden: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = hidden.to(self.norm.weight.dtype)  # under autocast the residual stream stays in float32
        finals = []
        for layer, block in enumerate(self.blocks):
            hidden, final = block(hidden, None if state is None else state[layer])
            finals.append(final)
        return self.norm(hidden), torch.stack(finals)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.projection(x)
        for layer, block in enumerate(self.blocks):
            hidden, _ = block.step(hidden, state[layer])
        return self.norm(hidden), state

    def init_state(self, batch: int) -> Tensor:
        return torch.stack([block.init_state(batch) for block in self.blocks])
