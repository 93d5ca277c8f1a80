"""Iterative Thinking that writes token after token."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import ModelLoss
from ..cached_decoder import CachedDecoder, ExtendLayer
from .core import IterativeThinkingConfig, ThinkingCore, pondered


class IterativeThinking(CachedDecoder):
    """A causal :class:`ThinkingCore`: perplexity means what it means for any other causal model.

    A stop decided from a sequence would tell its early tokens of its later ones. Here all tokens take the
    same ``iterations`` passes, so that later tokens find the keys of every pass, and each token is read from
    a pass of its own: the first after which it has stopped with probability ½ or more, by its own λ alone;
    the last at the latest. The cache holds each pass's keys and values; beyond the block see
    :class:`~phasefield.models.cached_decoder.CachedDecoder`.

    In training the loss is PonderNet's over the passes with gradients, plus the weighted last change of the
    carried state; in evaluation it is the cross-entropy of the tokens as they are read.
    """

    def __init__(self, config: IterativeThinkingConfig) -> None:
        super().__init__()
        self.config = config
        self.num_attentions = config.iterations * (config.num_layers - 1)
        self.num_heads, self.head_dim = config.num_heads, config.hidden_dim // config.num_heads
        self.block_size = config.block_size
        self.core = ThinkingCore(config, config.vocab_size, causal=True)

    def hidden(self, tokens: Tensor, position: int = 0, extend: ExtendLayer | None = None) -> Tensor:
        """See :meth:`CachedDecoder.hidden`; each token's from the pass it is read from."""
        projected = self.core.project(tokens, position)
        carried = read = None
        going_on: Tensor | float = 1.0
        for number in range(self.config.iterations):
            z, carried = self.core.iterate(projected, carried, number, extend)
            read = z if read is None else torch.where(going_on > 0.5, z, read)
            going_on = going_on * torch.sigmoid(-self.core.halting(z).float())
        return read

    def logits(self, hidden: Tensor) -> Tensor:
        """See :meth:`CachedDecoder.logits`."""
        return self.core.head(hidden)

    def training_flops_per_token(self, seq_len: int) -> float:
        """See :meth:`ThinkingCore.training_flops_per_token`; it does not depend on ``seq_len``."""
        return self.core.training_flops_per_token()

    def loss(self, tokens: Tensor, targets: Tensor, state: None = None) -> ModelLoss:
        """The loss of ``targets`` ``[B, T]``; every batch begins an empty window.

        Raises:
            ValueError: in training, more tokens than ``block_size``.
        """
        if not self.training:
            logits, _ = self(tokens)
            content = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
            return ModelLoss(content, {"content": content.detach()}, None)
        if tokens.shape[1] > self.block_size:
            raise ValueError(
                f"tokens has {tokens.shape[1]} tokens a sequence; in training at most block_size "
                f"({self.block_size}) are allowed."
            )
        z, change = self.core.trained_passes(self.core.project(tokens))
        logits = self.core.head(z).float()
        wanted = targets.expand(len(z), *targets.shape)
        costs = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(wanted)
        expected, divergence = pondered(
            costs, self.core.halting(z).squeeze(-1).float(), self.config.halting_rate
        )
        content, halting = expected.mean(), divergence.mean()
        total = content + self.config.convergence_weight * change + self.config.halting_weight * halting
        terms = {"content": content.detach(), "convergence": change.detach(), "halting": halting.detach()}
        return ModelLoss(total, terms, None)
