"""Evaluation: one pass over a whole validation split, the same every time."""

import math
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data import Corpus, Tokenizer, evaluation_batches
from ..models import Measure


@dataclass(frozen=True)
class Evaluation:
    """Averages over the tokens of a split.

    Attributes:
        total: the loss that training minimises.
        terms: its parts, unweighted; ``content`` is the ``measure`` in nats a token.
        tokens: predicted tokens.
        characters: what those tokens stand for.
        measure: what ``content`` is.
    """

    total: float
    terms: dict[str, float]
    tokens: int
    characters: int
    measure: Measure = "cross-entropy"

    @property
    def bits_per_character(self) -> float | None:
        """``content · tokens / characters / ln 2``; an upper bound if content is one.

        None where content says nothing of the text as a whole, but of masked tokens only.
        """
        if self.measure == "masked cross-entropy":
            return None
        return self.nats_per(self.characters) / math.log(2)

    def nats_per(self, count: int) -> float:
        """``content · tokens / count``: nats a unit, if the predicted text has ``count`` units of a kind.

        Unlike nats a token, nats a character, byte or word compare across tokenizers.
        """
        return self.terms["content"] * self.tokens / count

    def perplexities(self, text: str) -> dict[str, float] | None:
        """E to the nats a word, and a byte, of the text that the predicted tokens stand for.

        A word is what stands between white space; bytes are UTF-8's. Upper bounds if content is one, None
        where content says nothing of the text as a whole.
        """
        if self.measure == "masked cross-entropy":
            return None
        counts = {"word": len(text.split()), "byte": len(text.encode("utf-8", "surrogatepass"))}
        nats = {unit: self.nats_per(max(count, 1)) for unit, count in counts.items()}
        return {unit: math.exp(value) if value < 700 else math.inf for unit, value in nats.items()}

    def __str__(self) -> str:
        scores = [f"total {self.total:.4f}", *(f"{name} {value:.4f}" for name, value in self.terms.items())]
        if self.bits_per_character is not None:
            at_most = "at most " if self.measure == "bound" else ""
            scores.append(f"bits per character {at_most}{self.bits_per_character:.4f}")
        return "  ".join(scores)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    ids: Tensor,
    batch_size: int,
    seq_len: int,
    accelerator: Accelerator | None = None,
    *,
    characters: int | None = None,
    measure: Measure = "cross-entropy",
    stateful: bool = False,
) -> Evaluation:
    """Predict every token of ``ids`` but the first once, in windows that each start from a zero state.

    Or, if ``stateful``, as one stream that carries its state from window to window: in the memory of a
    window, however long the text, and with the content that one pass over the whole of it has.

    No randomness, float32, evaluation mode (the model's mode is restored). The terms of a batch count by its
    tokens.

    Args:
        model: offers ``loss(tokens, targets)``.
        ids: int64 ``[N]``, on the model's device.
        batch_size: windows at once; it changes the result by rounding only.
        seq_len: tokens a window; the last one may be shorter.
        accelerator: shares the batches among its processes; one process reads all of them if None.
        characters: that the predicted tokens stand for; one each if None.
        measure: what the model's content is (``ModelEntry.measure``).
        stateful: carry the state; windows come one at a time then, and no accelerator shares them.

    Raises:
        ValueError: the state of a model without one is to be carried.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    was_training = model.training
    model.eval()
    names: list[str] = []
    sums = state = None
    batches = evaluation_batches(ids, 1 if stateful else batch_size, seq_len)
    for inputs, targets in islice(batches, rank, None, processes):
        loss = model.loss(inputs, targets, state)
        if stateful:
            state = loss.state
            if state is None:
                raise ValueError("the model has no state to carry from window to window.")
        names = list(loss.terms)
        values = torch.stack([loss.total, *loss.terms.values(), torch.ones_like(loss.total)]).double()
        values *= targets.numel()
        sums = values if sums is None else sums + values
    model.train(was_training)
    if accelerator is not None:
        sums = accelerator.reduce(sums)
    *totals, tokens = sums.tolist()
    total, *terms = (value / tokens for value in totals)
    scores = dict(zip(names, terms, strict=True))
    return Evaluation(total, scores, int(tokens), characters or int(tokens), measure)


def validation_ids(corpus: Corpus, tokenizer: Tokenizer) -> Tensor:
    """The validation split as int64 ``[N]``.

    Raises:
        ValueError: a character the vocabulary lacks, or too short a split to predict anything.
    """
    ids = tokenizer.encode(corpus.validation)
    if len(ids) < 2:
        raise ValueError(f"the validation split of {corpus.name} has {len(ids)} token; it needs 2.")
    return ids


def predicted_text(corpus: Corpus, tokenizer: Tokenizer, ids: Tensor) -> str:
    """What the tokens ``ids`` of the validation split but the first stand for."""
    return corpus.validation[len(tokenizer.decode(ids[:1])) :]


def describe_split(
    tokens: int, seq_len: int, measure: Measure, stateful: bool = False, *, whole: bool = True
) -> str:
    """What an evaluation covers and measures, in words."""
    what = {
        "cross-entropy": "",
        "masked cross-entropy": "; content is the cross-entropy of masked tokens only",
        "bound": "; content is an upper bound of the cross-entropy",
    }[measure]
    state = "carried" if stateful else "reset"
    part = "full validation split" if whole else "beginning of the validation split"
    return f"{part}, {tokens:,} tokens, windows of {seq_len}, state {state}{what}"
