"""How the model's own ``generate`` chooses a token."""

import math

import torch
from torch import Tensor

from ...generation import filter_logits
from .interfaces import Sampler
from .registry import register_sampler


def _drawn(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def _repeated(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Logits in float32, those of tokens seen before less likely by the factor, whatever their sign."""
    logits = logits.float()
    if penalty == 1:
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, history, True)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _check(**values: tuple[float, bool, str]) -> None:
    for name, (value, holds, allowed) in values.items():
        if not holds:
            raise ValueError(f"{name} is {value!r}; it must be {allowed}.")


@register_sampler("greedy", description="the likeliest token")
class Greedy(Sampler):
    """The likeliest token."""

    def __call__(self, logits: Tensor, history: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return logits.argmax(-1)


@register_sampler("nucleus", description="temperature, top-k, then top-p")
class Nucleus(Sampler):
    """Draws from the likeliest tokens: see :func:`phasefield.generation.filter_logits`.

    Args:
        temperature, top_k, top_p: as there; the origin's defaults.
        repetition_penalty: at least 1; logits of tokens seen before are divided by it where positive and
            multiplied where negative.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
    ) -> None:
        _check(
            temperature=(temperature, 0 < temperature < math.inf, "above 0 and finite"),
            top_k=(top_k, top_k >= 0, "at least 0 (0 = all)"),
            top_p=(top_p, 0 < top_p <= 1, "above 0 and at most 1"),
            repetition_penalty=(repetition_penalty, repetition_penalty >= 1, "at least 1"),
        )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.repetition_penalty = repetition_penalty

    def __call__(self, logits: Tensor, history: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = _repeated(logits, history, self.repetition_penalty)
        return _drawn(filter_logits(logits, self.temperature, self.top_k, self.top_p), generator)


@register_sampler("min_p", description="tokens at least a share as likely as the likeliest")
class MinP(Sampler):
    """Draws from the tokens whose probability is at least ``min_p`` times the largest.

    Args:
        temperature: divides the logits first.
        min_p: in [0, 1].
        repetition_penalty: as in :class:`Nucleus`.
    """

    def __init__(
        self, temperature: float = 1.0, min_p: float = 0.05, repetition_penalty: float = 1.0
    ) -> None:
        _check(
            temperature=(temperature, 0 < temperature < math.inf, "above 0 and finite"),
            min_p=(min_p, 0 <= min_p <= 1, "at least 0 and at most 1"),
            repetition_penalty=(repetition_penalty, repetition_penalty >= 1, "at least 1"),
        )
        self.temperature, self.min_p, self.repetition_penalty = temperature, min_p, repetition_penalty

    def __call__(self, logits: Tensor, history: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = _repeated(logits, history, self.repetition_penalty)
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        least = math.log(self.min_p) if self.min_p > 0 else -math.inf
        return _drawn(logits.masked_fill(logits < least, -math.inf), generator)
