"""Continuing a prompt with a model that fills a block of positions at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..generation import check_sampling, filter_logits

UNDECIDED = -1
"""In a draft: no token yet."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; see :func:`phasefield.generation.stream_tokens`.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[N]`` from logits ``[N, V]``, and the model's own probability of each."""
        if self.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            kept = filter_logits(logits, self.temperature, self.top_k, self.top_p).softmax(-1)
            tokens = torch.multinomial(kept, 1, generator=self.generator).squeeze(-1)
        probability = logits.float().softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return tokens, probability


def continue_in_blocks(
    infill: Callable[[Tensor, Tensor], Iterator[Tensor]], prompt: Tensor, length: int, block_size: int
) -> Iterator[Tensor]:
    """Drafts of the ``length`` tokens that follow a prompt, written at most half a block at a time.

    Each piece sees as much of what came before as fits into the block with it.

    Args:
        infill: from tokens ``[B, T]`` and the mask ``[B, T]`` of those given, drafts ``[B, T]`` one after
            another, with :data:`UNDECIDED` where there is no token yet; the last is complete.
        prompt: int64 ``[B, T]``.
        length: at least 0.
        block_size: T of infill is at most this.

    Yields:
        ``[B, n]``, n growing up to ``length``; the last is the answer.

    Raises:
        ValueError: prompt or length is none of these.
    """
    if prompt.ndim != 2:
        raise ValueError(f"prompt has shape {list(prompt.shape)}; allowed is [B, T].")
    if length < 0:
        raise ValueError(f"length is {length}; it must be at least 0.")
    text = prompt
    begin, end = prompt.shape[1], prompt.shape[1] + length
    while text.shape[1] < end:
        here = text.shape[1]
        piece = min(end - here, max(block_size // 2, 1))
        context = text[:, max(0, here - (block_size - piece)) :]
        tokens = torch.cat([context, context.new_zeros(context.shape[0], piece)], dim=1)
        known = torch.arange(tokens.shape[1], device=tokens.device) < context.shape[1]
        for draft in infill(tokens, known.expand_as(tokens)):
            current = torch.cat([text, draft[:, context.shape[1] :]], dim=1)
            yield current[:, begin:]
        text = current


class Drafting(nn.Module):
    """A model that continues a prompt by drafts of a block: :class:`~phasefield.models.Completes`.

    A subclass has ``config.block_size`` and ``infill(tokens, known, sampling)``, an iterator over drafts as
    :func:`continue_in_blocks` takes them.
    """

    def complete(self, prompt: Tensor, length: int, **sampling: Any) -> Tensor:
        """See :meth:`phasefield.models.Completes.complete`: the last of :meth:`complete_steps`."""
        answer = prompt[..., :0]
        for answer in self.complete_steps(prompt, length, **sampling):  # noqa: B007
            pass
        return answer

    def complete_steps(
        self,
        prompt: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """How the answer of :meth:`complete` settles: drafts ``[B, n]``, −1 where nothing is decided yet."""
        infill = partial(self.infill, sampling=Sampling(temperature, top_k, top_p, generator))
        return continue_in_blocks(infill, prompt, length, self.config.block_size)
