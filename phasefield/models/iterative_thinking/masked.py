"""Iterative Thinking that fills masked places, all at once and then in the order of its confidence."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import ModelLoss
from ..drafting import UNDECIDED, Drafting, Sampling
from ..fixed_noise import fixed_uniform
from ..transformer import check_fields
from .core import IterativeThinkingConfig, ThinkingCore, pondered
from .stopping import halting_logits, think

DRAFTS = 32
"""Drafts of a piece in :meth:`MaskedIterativeThinking.complete`, at most."""


@dataclass(frozen=True)
class MaskedIterativeThinkingConfig(IterativeThinkingConfig):
    """The masked model's: ``iterations`` counts for training only, ``max_iterations`` for all else.

    Raises:
        ValueError: a value out of range.
    """

    max_iterations: int = 200
    """passes after which a sequence stops if nothing has stopped it before; the origin's"""
    mask_rate: float = 0.6
    """share of the places that are masked in evaluation, the origin's; in training it is random"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            {
                "max_iterations": (self.max_iterations, self.max_iterations >= 1, "at least 1"),
                "mask_rate": (self.mask_rate, 0 < self.mask_rate <= 1, "above 0 and at most 1"),
            }
        )


class MaskedIterativeThinking(Drafting):
    """A :class:`ThinkingCore` that sees a whole block, some of it masked, and thinks until it has settled.

    Trained to fill masks, of which a sequence has a random number (uniform from 1 to all), by PonderNet's
    loss over the masked places alone: what is visible need not be predicted. When to stop is decided a
    sequence at a time, see :func:`~phasefield.models.iterative_thinking.stopping.think`, so an answer does
    not depend on what else is in the batch. Text is drafted as in mask-predict: fill all masks, mask again
    those filled with the least confidence, fewer each time; a draft shows what it will keep.

    In evaluation exactly ``round(mask_rate · T)`` places of every sequence are masked, chosen by its tokens
    (:mod:`~phasefield.models.fixed_noise`), and the loss is the cross-entropy at these.

    Source: M. Ghazvininejad et al., "Mask-predict: parallel decoding of conditional masked language models",
    2019.
    """

    def __init__(self, config: MaskedIterativeThinkingConfig) -> None:
        super().__init__()
        self.config = config
        self.mask = config.vocab_size
        self.core = ThinkingCore(config, config.vocab_size + 1, causal=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Think about ``tokens`` ``[B, T]``, in which ``self.mask`` stands for a masked one.

        Returns:
            ``(logits, passes)``: ``[B, T, vocab_size]`` for the token at each place itself, and how many
            passes each sequence took, int64 ``[B]``. No gradients: :meth:`loss` trains.

        Raises:
            ValueError: more tokens than ``block_size``.
        """
        z, passes = think(self.core, self._project(tokens), self.config.max_iterations)
        return self.core.head(z), passes

    def training_flops_per_token(self, seq_len: int) -> float:
        """See :meth:`ThinkingCore.training_flops_per_token`; it does not depend on ``seq_len``."""
        return self.core.training_flops_per_token()

    def loss(self, tokens: Tensor, targets: Tensor, state: None = None) -> ModelLoss:
        """The loss of filling masked places of ``targets`` ``[B, T]``; ``tokens`` is not read.

        Raises:
            ValueError: more tokens than ``block_size``.
        """
        B, T = targets.shape
        if not self.training:
            order = fixed_uniform(targets, T).argsort(1).argsort(1)
            masked = order < max(1, round(self.config.mask_rate * T))
            logits, _ = self(targets.masked_fill(masked, self.mask))
            content = F.cross_entropy(logits[masked].float(), targets[masked])
            return ModelLoss(content, {"content": content.detach()}, None)
        order = torch.rand(B, T, device=targets.device).argsort(1).argsort(1)
        masked = order < torch.randint(1, T + 1, (B, 1), device=targets.device)
        z, change = self.core.trained_passes(self._project(targets.masked_fill(masked, self.mask)))
        logits = self.core.head(z).float()
        wanted = targets.expand(len(z), B, T)
        costs = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(wanted)
        # Each sequence's sum; over the masked places of all, their mean.
        costs = (costs * masked).sum(-1) / masked.sum()
        expected, divergence = pondered(costs, halting_logits(self.core, z), self.config.halting_rate)
        content, halting = expected.sum(), divergence.mean()
        total = content + self.config.convergence_weight * change + self.config.halting_weight * halting
        terms = {"content": content.detach(), "convergence": change.detach(), "halting": halting.detach()}
        return ModelLoss(total, terms, None)

    @torch.no_grad()
    def infill(
        self, tokens: Tensor, known: Tensor, sampling: Sampling, drafts: int = DRAFTS
    ) -> Iterator[Tensor]:
        """Fill the places of ``tokens`` ``[B, T]`` where ``known`` ``[B, T]`` is false, by mask-predict.

        Draft i of n keeps the ``1 − i / n`` least certain places masked, certainty being the probability of
        the token when it was drawn.

        Yields:
            The drafts ``[B, T]``, :data:`~phasefield.models.drafting.UNDECIDED` where masked again; known
            tokens stay.
        """
        current = torch.where(known, tokens, self.mask)
        certainty = known.float() * 2  # above every probability
        unknown = (~known).sum(1, keepdim=True)
        drafts = min(drafts, int(unknown.max()))
        for left in reversed(range(drafts)):
            masked = current == self.mask
            logits, _ = self(current)
            current[masked], certainty[masked] = sampling.draw(logits[masked])
            again = certainty.argsort(1).argsort(1) < unknown * left // drafts
            yield current.masked_fill(again, UNDECIDED)
            current = current.masked_fill(again, self.mask)

    def _project(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.config.block_size:
            raise ValueError(
                f"tokens has {tokens.shape[1]} tokens a sequence; at most block_size "
                f"({self.config.block_size}) are allowed."
            )
        return self.core.project(tokens)
