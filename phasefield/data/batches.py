"""Batches of token ids. A batch is a function of its index alone, so resuming needs no sampler state."""

from collections.abc import Iterator

import torch
from torch import Tensor


class RandomWindows:
    """Windows of ``seq_len`` tokens from random places, and the same windows one token on.

    Args:
        ids: the text, int64 ``[N]``; kept on the device in the smallest integers that hold it.
        batch_size: windows a batch (of this process).
        seq_len: tokens a window.
        seed: with the batch's index and the rank it determines the batch.
        device: where batches are made, by one gather.
        rank: of this process; each gets windows of its own.
        world_size: number of processes.

    Raises:
        ValueError: the text is shorter than one window and its target.
    """

    def __init__(
        self,
        ids: Tensor,
        batch_size: int,
        seq_len: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _require_length(ids, 1, seq_len)
        self.ids = _compact(ids).to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.window = torch.arange(seq_len + 1, device=device)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """``(inputs, targets)``, int64 ``[batch_size, seq_len]`` each."""
        places = self.ids.shape[0] - self.window.shape[0] + 1
        generator = torch.Generator().manual_seed(self._seed_of(index))
        starts = torch.randint(places, (self.batch_size, 1), generator=generator)
        windows = self.ids[starts.to(self.ids.device) + self.window].long()
        return windows[:, :-1], windows[:, 1:]

    def restarts(self, index: int) -> bool:
        """Whether a state carried from the batch before has nothing to do with this one: always."""
        return True

    def _seed_of(self, index: int) -> int:
        # Odd multipliers of 64 bits (from the splitmix generator) spread the two counters.
        counter = index * self.world_size + self.rank
        return (self.seed * 0x9E3779B97F4A7C15 + counter * 0xBF58476D1CE4E5B9) % 2**63


class ContiguousStreams:
    """Each row of a batch goes on where it stopped in the batch before: for truncated back-propagation.

    The text is cut into ``batch_size · world_size`` streams of equal length, read ``seq_len`` tokens a
    batch; after the last whole piece all streams begin again. Arguments as in :class:`RandomWindows`;
    ``seed`` is not used.
    """

    def __init__(
        self,
        ids: Tensor,
        batch_size: int,
        seq_len: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _require_length(ids, batch_size * world_size, seq_len)
        length = (ids.shape[0] - 1) // (batch_size * world_size)
        streams = ids[: length * batch_size * world_size + 1].unfold(0, length + 1, length)
        mine = streams[rank * batch_size : (rank + 1) * batch_size]
        self.streams = _compact(mine).to(device)
        self.seq_len = seq_len
        self.batches_a_pass = length // seq_len

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """``(inputs, targets)``, int64 ``[batch_size, seq_len]`` each."""
        begin = (index % self.batches_a_pass) * self.seq_len
        windows = self.streams[:, begin : begin + self.seq_len + 1].long()
        return windows[:, :-1], windows[:, 1:]

    def restarts(self, index: int) -> bool:
        """Whether the streams begin (again) with this batch: a carried state must be dropped."""
        return index % self.batches_a_pass == 0


def evaluation_batches(ids: Tensor, batch_size: int, seq_len: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive windows that predict every token of a text but its first exactly once.

    Args:
        ids: the text, integers ``[N]`` on the device that evaluates.
        batch_size: windows a batch, at most.
        seq_len: tokens a window; the last window is shorter and comes alone.

    Yields:
        ``(inputs, targets)``, int64 ``[≤ batch_size, ≤ seq_len]``.

    Raises:
        ValueError: the text has fewer than two tokens.
    """
    _require_length(ids, 1, 1)
    count = ids.shape[0] - 1
    whole = count // seq_len
    inputs, targets = (x[: whole * seq_len].view(whole, seq_len) for x in (ids[:-1], ids[1:]))
    for first in range(0, whole, batch_size):
        yield inputs[first : first + batch_size].long(), targets[first : first + batch_size].long()
    if count > whole * seq_len:
        rest = ids[whole * seq_len :].long().unsqueeze(0)
        yield rest[:, :-1], rest[:, 1:]


def _require_length(ids: Tensor, streams: int, seq_len: int) -> None:
    if ids.shape[0] < streams * seq_len + 1:
        each = "" if streams == 1 else f" for each of {streams} streams"
        raise ValueError(
            f"the text has {ids.shape[0]} tokens; seq_len {seq_len} needs at least "
            f"{streams * seq_len + 1}{each}."
        )


def _compact(ids: Tensor) -> Tensor:
    largest = int(ids.max())
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if largest <= torch.iinfo(dtype).max:
            return ids.to(dtype)
    return ids.contiguous()
