"""The order in which the Hebbian loop reads a text: one in memory, or one that streams by."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.pieces import Pieces
from ..layers.golden import PHI

CHUNK = 64
"""Batches of a stream that are in memory at once."""


class Passes:
    """A text in blocks of ``batch_size`` windows that lie one after another; pass after pass over it.

    A pass leaps by the golden section of the text from block to block, so that what comes next is seldom near
    what was just learnt: a text resembles itself most nearby, and predictions that are only ever tried there
    are trusted too much elsewhere. (In the text's own order Tiny Shakespeare's validation loss is 0.02 nats
    higher.)

    Args:
        ids: the text, int64 ``[N]``.
        batch_size: windows a batch.
        seq_len: tokens a window.
        seed: where in the text the passes begin.

    Raises:
        ValueError: the text is shorter than one batch.

    >>> passes = Passes(torch.arange(41), batch_size=2, seq_len=4)
    >>> [int(passes.batch(step)[0][0, 0]) for step in range(passes.batches)]
    [0, 24, 8, 32, 16]
    """

    def __init__(self, ids: Tensor, batch_size: int, seq_len: int, seed: int = 0) -> None:
        self.size, self.shape = batch_size * seq_len, (batch_size, seq_len)
        self.batches = (len(ids) - 1) // self.size
        if self.batches < 1:
            raise ValueError(
                f"the text has {len(ids):,} tokens; a batch of {batch_size} windows of {seq_len} needs "
                f"{self.size + 1:,}. Give a smaller --batch-size or --seq-len."
            )
        self.ids = ids
        strides = [stride for stride in range(1, self.batches + 1) if math.gcd(stride, self.batches) == 1]
        self._stride = min(strides, key=lambda stride: abs(stride - self.batches / PHI))
        self._first = seed * self._stride**2 % self.batches

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """``(inputs, targets)``, int64 ``[batch_size, seq_len]`` each."""
        begin = (self._first + index * self._stride) % self.batches * self.size
        text = self.ids[begin : begin + self.size + 1]
        return text[:-1].view(self.shape), text[1:].view(self.shape)

    def repeats(self, index: int) -> bool:
        """Whether the batch was seen in an earlier pass."""
        return index >= self.batches


class StreamedPasses:
    """A text too long for memory, in the blocks of :class:`Passes`, one chunk of 64 batches after another.

    Each chunk is read as a short text of its own, with leaps inside it. What is left at the end of the text
    and fills no batch is left out, so that every pass reads the same chunks.

    Args:
        pieces: the text.
        encode: what makes tokens of it, piece by piece.
        batch_size: windows a batch.
        seq_len: tokens a window.
        seed: where in each chunk its pass begins.
        device: where batches go.

    Raises:
        ValueError: the text is shorter than one batch, or cannot be written in the tokenizer's tokens.
        OSError, RuntimeError: it cannot be read, also in :meth:`batch`.
    """

    def __init__(
        self,
        pieces: Pieces,
        encode: Callable[[str], Tensor],
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = batch_size * seq_len
        self._pieces, self._encode = pieces, encode
        self._order = (batch_size, seq_len, seed)
        self._device = device
        self.seek({"first": 0, "pass": 0, "piece": None, "skip": 0})

    @property
    def position(self) -> dict[str, Any]:
        """Where the chunk of the last batch begins; plain JSON."""
        return self._position

    def seek(self, position: dict[str, Any]) -> None:
        """Go to a :attr:`position`: the next batch is one of that chunk, or the first behind it."""
        self._reading = self._pieces.read(position["piece"])
        # What is read and in no chunk yet: the end of one piece, which began there and had so many tokens.
        self._rest, self._piece, self._length = torch.empty(0, dtype=torch.int64), position["piece"], 0
        if position["skip"]:
            self._piece, text = next(self._reading)
            tokens = self._encode(text)
            self._rest, self._length = tokens[position["skip"] :], len(tokens)
        self._position = position
        self._chunk = Passes(self._take().to(self._device), *self._order)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """``(inputs, targets)``, int64 ``[batch_size, seq_len]`` each; never of a chunk that has gone by."""
        while index >= self._position["first"] + self._chunk.batches:
            self._next_chunk()
        if index < self._position["first"]:
            raise ValueError(f"batch {index} has gone by; the stream is at {self._position['first']}.")
        return self._chunk.batch(index - self._position["first"])

    def repeats(self, index: int) -> bool:
        """Whether the batch, which must be of the present chunk, was seen in an earlier pass."""
        return self._position["pass"] > 0

    def _next_chunk(self) -> None:
        first, number = self._position["first"] + self._chunk.batches, self._position["pass"]
        skip = self._length - len(self._rest)
        position = {"first": first, "pass": number, "piece": self._piece, "skip": skip}
        tokens = self._take()
        if len(tokens) > self.size:
            self._position, self._chunk = position, Passes(tokens.to(self._device), *self._order)
        else:
            self.seek({"first": first, "pass": number + 1, "piece": None, "skip": 0})

    def _take(self) -> Tensor:
        """The tokens of the next chunk; fewer at the end of the text."""
        wanted = CHUNK * self.size  # and the last one's target, which begins the next chunk
        tokens, size = [self._rest], len(self._rest)
        while size <= wanted and (piece := next(self._reading, None)) is not None:
            self._piece, text = piece
            tokens.append(self._encode(text))
            self._length = len(tokens[-1])
            size += self._length
        chunk = torch.cat(tokens)
        self._rest = chunk[wanted:].clone()
        return chunk[: wanted + 1]
