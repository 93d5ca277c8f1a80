"""Evaluation: one pass over a whole validation split, the same every time."""

import math
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data import CharTokenizer, Corpus, evaluation_batches


@dataclass(frozen=True)
class Evaluation:
    """Averages over the tokens of a split.

    Attributes:
        total: the loss that training minimises.
        terms: its parts, unweighted; ``content`` is the cross-entropy in nats a token.
        tokens: predicted tokens.
    """

    total: float
    terms: dict[str, float]
    tokens: int

    @property
    def bits_per_character(self) -> float:
        """``content / ln 2``."""
        return self.terms["content"] / math.log(2)

    def __str__(self) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.terms.items())
        return f"total {self.total:.4f}  {terms}  bits per character {self.bits_per_character:.4f}"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    ids: Tensor,
    batch_size: int,
    seq_len: int,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Predict every token of ``ids`` but the first once, in windows that each start from a zero state.

    No randomness, float32, evaluation mode (the model's mode is restored). The terms of a batch count by its
    tokens.

    Args:
        model: offers ``loss(tokens, targets)``.
        ids: int64 ``[N]``, on the model's device.
        batch_size: windows at once; it changes the result by rounding only.
        seq_len: tokens a window; the last one may be shorter.
        accelerator: shares the batches among its processes; one process reads all of them if None.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    was_training = model.training
    model.eval()
    names: list[str] = []
    sums = None
    for inputs, targets in islice(evaluation_batches(ids, batch_size, seq_len), rank, None, processes):
        loss = model.loss(inputs, targets)
        names = list(loss.terms)
        values = torch.stack([loss.total, *loss.terms.values(), torch.ones_like(loss.total)]).double()
        values *= targets.numel()
        sums = values if sums is None else sums + values
    model.train(was_training)
    if accelerator is not None:
        sums = accelerator.reduce(sums)
    *totals, tokens = sums.tolist()
    total, *terms = (value / tokens for value in totals)
    return Evaluation(total, dict(zip(names, terms, strict=True)), int(tokens))


def validation_ids(corpus: Corpus, tokenizer: CharTokenizer) -> Tensor:
    """The validation split as int64 ``[N]``.

    Raises:
        ValueError: a character the vocabulary lacks, or too short a split to predict anything.
    """
    ids = tokenizer.encode(corpus.validation)
    if len(ids) < 2:
        raise ValueError(f"the validation split of {corpus.name} has {len(ids)} character; it needs 2.")
    return ids


def describe_split(tokens: int, seq_len: int) -> str:
    """What an evaluation covers, in words."""
    return f"full validation split, {tokens:,} tokens, windows of {seq_len}, state reset"
