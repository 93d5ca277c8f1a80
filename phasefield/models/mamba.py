"""Mamba as a language model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Mamba, SSMState
from ..layers.rms_norm import RMSNorm
from ..layers.ssm import at_least_float32, normed
from .base import ModelLoss


@dataclass(frozen=True)
class MambaConfig:
    """The model's shape; the defaults are the origin's, which are size ``small``.

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    dim: int = 256
    """width of the residual stream"""
    num_layers: int = 6
    """blocks"""
    d_state: int = 16
    """states a channel"""
    d_conv: int = 4
    """taps of the convolution"""
    expand: int = 2
    """inner width over dim"""
    dt_rank: int | None = None
    """width that time steps are projected from; dim / 16, rounded up, if left out"""
    bias: bool = False
    """give the projections into and out of a block a bias"""
    conv_bias: bool = True
    """give the convolutions a bias"""
    tie_embeddings: bool = True
    """let the embedding's table be the head's too"""
    norm_eps: float = 1e-5
    """of the RMS norms"""

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "d_state", "d_conv", "expand", "dt_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value!r}; it must be at least 1.")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps is {self.norm_eps!r}; it must be above 0 and finite.")


class MambaLM(nn.Module):
    """Embedding → residual Mamba blocks → RMS norm → linear head.

    The residual stream is float32 whatever the weights are (float64 for float64 weights). Blocks start as
    :class:`~phasefield.layers.Mamba` does, with W_out scaled by ``num_layers^-½``, which keeps the stream's
    variance in hand; the embedding starts N(0, 0.02²), biases but the time steps' at 0.

    The state is a :class:`~phasefield.layers.SSMState` of ``[num_layers, B, …]`` tensors.

    Source: A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            Mamba(
                config.dim,
                config.d_state,
                config.d_conv,
                config.expand,
                config.dt_rank,
                bias=config.bias,
                conv_bias=config.conv_bias,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            for layer in self.layers:
                layer.out_proj.weight.mul_(config.num_layers**-0.5)
                for projection in (layer.in_proj, layer.out_proj):
                    if projection.bias is not None:
                        projection.bias.zero_()

    def forward(self, tokens: Tensor, state: SSMState | None = None) -> tuple[Tensor, SSMState]:
        """Logits ``[B, T, vocab_size]`` of what follows each of ``tokens`` ``[B, T]``, and the state."""
        hidden = at_least_float32(self.embedding(tokens))
        finals = []
        for index, layer in enumerate(self.layers):
            hidden, final = layer(hidden, None if state is None else state.layer(index))
            finals.append(final)
        return self._logits(hidden), SSMState.stack(finals)

    def step(self, token: Tensor, state: SSMState) -> tuple[Tensor, SSMState]:
        """One token ``[B]`` → logits ``[B, vocab_size]``; for decoding: overwrites ``state``, returns it."""
        hidden = at_least_float32(self.embedding(token))
        for index, layer in enumerate(self.layers):
            hidden, _ = layer.step(hidden, state.layer(index))
        return self._logits(hidden), state

    def init_state(self, batch: int) -> SSMState:
        """The zero state of ``batch`` sequences."""
        return SSMState.stack([layer.init_state(batch) for layer in self.layers])

    def loss(self, tokens: Tensor, targets: Tensor, state: SSMState | None = None) -> ModelLoss:
        """Mean cross-entropy of ``targets`` ``[B, T]``."""
        logits, state = self(tokens, state)
        content = F.cross_entropy(at_least_float32(logits.flatten(0, 1)), targets.flatten())
        return ModelLoss(content, {"content": content.detach()}, state)

    def _logits(self, hidden: Tensor) -> Tensor:
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(normed(self.norm, hidden), weight)
