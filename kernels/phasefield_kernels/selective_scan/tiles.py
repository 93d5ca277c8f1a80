"""How selective_scan's torch form cuts its work: tiles of lanes and spans of steps, and how tensors lie."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..pairs import as_complex

_CHUNK = 1 << 17  # floats of a span's states
_SHORTEST, _LONGEST = 8, 64  # steps of a span; each keeps its start state
_BLOCK = 64  # steps of a block


class Inputs(NamedTuple):
    """The op's inputs (or their gradients)."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    A: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool

    def pieces(self) -> tuple[Tensor | None, ...]:
        """Those with a time axis: x, dt, B, C and z."""
        return self[:5]

    def of(self, pieces: tuple[Tensor | None, ...]) -> "Inputs":
        """The same parameters with a sequence's own tokens."""
        return Inputs(*pieces, *self[5:])


def saved_numel(shape: tuple[int, ...], A_shape: tuple[int, ...]) -> int:
    """Floats of the start states of one batch of sequences' spans, x ``[B, T, D]``."""
    batch, length, width = shape
    floats = batch * width * _floats(A_shape)
    return -(-length // _span(floats)) * floats


def _floats(A_shape: tuple[int, ...]) -> int:
    # Of a channel's state.
    return A_shape[1] * (2 if len(A_shape) == 3 else 1)


def _span(floats: int) -> int:
    # Steps of a span: a power of two, so that few lengths come up.
    span = _SHORTEST
    while 2 * span * max(1, floats) <= _CHUNK and span < _LONGEST:
        span *= 2
    return span


class Tile(NamedTuple):
    """The lanes of a tile: some sequences, and of them some groups or some channels of one."""

    rows: slice
    groups: slice
    channels: slice
    span: int

    def tokens(self, tensor: Tensor) -> Tensor:
        """Of ``[B, T, D]``."""
        return tensor[self.rows, :, self.channels]

    def states(self, tensor: Tensor) -> Tensor:
        """Of ``[B, D, N(, 2)]``."""
        return tensor[self.rows, self.channels]

    def inputs(self, inputs: Inputs) -> Inputs:
        """Inputs (or gradients) of these lanes; B and C ``[B, T, G, N(, 2)]``."""
        x, dt, B, C, z, *parameters, dt_softplus = inputs
        x, dt, z = (None if t is None else self.tokens(t) for t in (x, dt, z))
        grouped = 2 + inputs.A.ndim
        B, C = (t if t.ndim == grouped else t.unsqueeze(2) for t in (B, C))
        B, C = (t[self.rows, :, self.groups] for t in (B, C))
        return Inputs(
            x, dt, B, C, z, *(None if p is None else p[self.channels] for p in parameters), dt_softplus
        )


def tiles(inputs: Inputs, starts: Tensor) -> Iterator[tuple[Tile, Tensor]]:
    """Tiles of a batch of sequences, each with its own part of the start states, ``[spans, floats]``."""
    batch, length, width = inputs.x.shape
    floats = _floats(inputs.A.shape)
    groups = inputs.B.shape[2] if inputs.B.ndim == 2 + inputs.A.ndim else 1
    channels = width // groups
    lanes = max(1, _CHUNK // min(_SHORTEST, max(1, length)) // max(1, floats))
    by_group = _share(groups, lanes // max(1, channels))
    by_channel = by_group * channels if by_group > 1 else _share(channels, lanes)
    by_row = _share(batch, lanes // max(1, width))
    span = _span(batch * width * floats)
    spans = -(-length // span)
    taken = 0
    for row in range(0, batch, by_row):
        rows = slice(row, min(row + by_row, batch))
        for group in range(0, groups, by_group):
            end = min(group + by_group, groups)
            for channel in range(group * channels, end * channels, by_channel):
                own = slice(channel, min(channel + by_channel, end * channels))
                size = (rows.stop - rows.start) * (own.stop - own.start) * floats
                part = starts[taken : taken + spans * size].view(spans, size)
                yield Tile(rows, slice(group, end), own, span), part
                taken += spans * size


def _share(count: int, most: int) -> int:
    # The size of as few equal parts as have at most `most` each.
    parts = -(-count // max(1, most))
    return -(-count // max(1, parts)) or 1


class Room(NamedTuple):
    """Where a span's states are worked on: all of them, and step by step."""

    all: Tensor
    steps: tuple[Tensor, ...]


class Layout:
    """How a tile's tensors are laid out, and its parameters and start states in that layout."""

    def __init__(self, inputs: Inputs, starts: Tensor, span: int) -> None:
        x, A = inputs.x, inputs.A
        self.inputs = inputs
        self.span = span
        self.dtype = state_dtype(x)
        self.complex = A.ndim == 3
        self.batch, self.length, self.width = x.shape
        self.groups, self.states = inputs.B.shape[2:4]
        self.channels = self.width // self.groups
        self.A = self.numbers(A).view(self.groups, self.channels, self.states).mT.contiguous()
        self.D = None if inputs.D is None else self.parameter(inputs.D)
        shape = (starts.shape[0], self.batch, *self.A.shape)
        self.starts = torch.view_as_complex(starts.view(*shape, 2)) if self.complex else starts.view(shape)

    def blocks(self) -> list[tuple[int, int]]:
        """(begin, end) of each block of time."""
        return [(t, min(t + _BLOCK, self.length)) for t in range(0, self.length, _BLOCK)]

    def spans(self, begin: int, end: int, **tensors: Tensor) -> list[SimpleNamespace]:
        """The spans of a block, each with its ``start`` state and its own steps of the tensors, by name."""
        # All views of a block at once: made span by span, they cost a tenth of the forward.
        starts = self.starts[begin // self.span : -(-end // self.span)].unbind(0)
        pieces = (tensor.split(self.span, dim=1) for tensor in tensors.values())
        return [
            SimpleNamespace(start=start, **dict(zip(tensors, own, strict=True)))
            for start, *own in zip(starts, *pieces, strict=True)
        ]

    def workspace(self, count: int) -> dict[int, list[Room]]:
        """Rooms by a span's number of steps, the same for every span: fresh ones would cost page faults."""
        longest = min(self.span, self.length)
        shape = (self.batch, longest, *self.A.shape)
        rooms = [torch.empty(shape, dtype=self.A.dtype, device=self.A.device) for _ in range(count)]
        return {
            steps: [Room(room[:, :steps], room[:, :steps].unbind(1)) for room in rooms]
            for steps in {longest, self.length % self.span}
        }

    def numbers(self, tensor: Tensor) -> Tensor:
        """In the state's dtype; as complex numbers if A is complex."""
        tensor = tensor.to(self.dtype)
        return as_complex(tensor) if self.complex else tensor

    def by_channel(self, tensor: Tensor, begin: int, end: int) -> Tensor:
        """``[B, T, D]`` → a block ``[B, steps, G, 1, P]``."""
        piece = tensor[:, begin:end].to(self.dtype)
        piece = piece if piece.stride(-1) == 1 else piece.contiguous()
        return piece.unflatten(-1, (self.groups, 1, self.channels))

    def by_state(self, tensor: Tensor, begin: int, end: int) -> Tensor:
        """``[B, T, G, N(, 2)]`` → a block ``[B, steps, G, N, 1]``."""
        return self.numbers(tensor[:, begin:end]).unsqueeze(-1)

    def delta(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Δ of a block, and what it is the softplus of, as :meth:`by_channel`."""
        raw = self.by_channel(self.inputs.dt, begin, end)
        if self.inputs.dt_bias is not None:
            raw = raw + self.parameter(self.inputs.dt_bias)
        return (F.softplus(raw) if self.inputs.dt_softplus else raw), raw

    def parameter(self, tensor: Tensor) -> Tensor:
        """``[D]`` → ``[G, 1, P]``."""
        return tensor.to(self.dtype).view(self.groups, 1, self.channels)

    def state_in(self, state: Tensor) -> Tensor:
        """``[B, D, N(, 2)]`` → a copy ``[B, G, N, P]``."""
        view = self.numbers(state).unflatten(1, (self.groups, self.channels)).mT
        return view.clone(memory_format=torch.contiguous_format)

    def state_out(self, state: Tensor) -> Tensor:
        """``[…, G, N, P]`` → ``[…, D, N(, 2)]``."""
        state = state.mT.flatten(-3, -2)
        return torch.view_as_real(state) if self.complex else state
