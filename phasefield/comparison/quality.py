"""How good a model's text is: variety, copies of the training text, and what a judge thinks of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Corpus, Tokenizer
from ..generation import stream_tokens
from .judge import Judge

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 8, 64, 256
DISTINCT = (1, 2, 3)
COPIED = 4
"""Words of the n-grams looked for in the training text."""


def prompts_and_continuations(validation: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of a validation split from places evenly apart ``[8, 64]``, and what follows them ``[8, 256]``.

    Both are shorter where the split is short.

    Raises:
        ValueError: the split has fewer than 16 tokens.
    """
    piece = min(PROMPT_TOKENS + NEW_TOKENS, len(validation) // PROMPTS)
    if piece < 2:
        raise ValueError(
            f"the validation split has {len(validation)} tokens; {PROMPTS} prompts and continuations need "
            f"{2 * PROMPTS}."
        )
    prompt = max(1, piece * PROMPT_TOKENS // (PROMPT_TOKENS + NEW_TOKENS))
    pieces = validation[: len(validation) // PROMPTS * PROMPTS].view(PROMPTS, -1)[:, :piece]
    return pieces[:, :prompt], pieces[:, prompt:]


def write(model: nn.Module, prompts: Tensor, length: int, seed: int) -> Tensor:
    """Continuations ``[B, length]`` of prompts ``[B, T]``, drawn from the model's own distribution."""
    generator = torch.Generator(prompts.device).manual_seed(seed)
    if hasattr(model, "step"):
        return torch.stack(list(stream_tokens(model, prompts, length, generator=generator)), dim=1)
    with torch.inference_mode():
        return model.complete(prompts, length, generator=generator)


class Critic:
    """Scores continuations of prompts against a training text.

    Args:
        corpus: its training part is what is copied from, and what the judge learns.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._judge = Judge(corpus.train)
        self._known = set(_word_grams(corpus.train, COPIED))

    def scores(self, prompts: Sequence[str], continuations: Sequence[str]) -> dict[str, Any]:
        """What is said of the continuations, all of them together.

        Returns:
            ``distinct-n``, the share of different ones among all n-grams of words; ``copied``, the share of
            n-grams of 4 words that the training text has; ``judge``, nats per character of
            :class:`~phasefield.comparison.judge.Judge`. None where there is nothing to count.
        """
        scores: dict[str, Any] = {}
        for n in DISTINCT:
            grams = [gram for text in continuations for gram in _word_grams(text, n)]
            scores[f"distinct-{n}"] = len(set(grams)) / len(grams) if grams else None
        grams = [gram for text in continuations for gram in _word_grams(text, COPIED)]
        scores["copied"] = sum(gram in self._known for gram in grams) / len(grams) if grams else None
        characters = sum(map(len, continuations))
        nats = [
            len(text) * (self._judge.nats_per_character(text, prompt) or 0.0)
            for prompt, text in zip(prompts, continuations, strict=True)
        ]
        scores["judge"] = sum(nats) / characters if characters else None
        return scores


def judged(critic: Critic, tokenizer: Tokenizer, prompts: Tensor, continuations: Tensor) -> dict[str, Any]:
    """The scores of continuations given as tokens, and the texts themselves."""
    before = [tokenizer.decode(row) for row in prompts]
    after = [tokenizer.decode(row) for row in continuations]
    samples = [{"prompt": prompt, "text": text} for prompt, text in zip(before, after, strict=True)]
    return {**critic.scores(before, after), "samples": samples}


def _word_grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))
