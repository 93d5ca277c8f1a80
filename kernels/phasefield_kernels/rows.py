"""Rows: what a program of a time-loop kernel walks through, and how a launch lays them out.

A *row* is a stretch of time of one sequence: the whole of it, one packed sequence, or one chunk of
``chunk_length`` steps. A program owns BLOCK neighbouring lanes (channels d) of one row and walks
through its steps, STEPS of them loaded at a time before the first is needed.
"""

from typing import Generic, NamedTuple, TypeVar

import triton
import triton.language as tl
from torch import Tensor

from .device import architecture, for_architecture


class Config(NamedTuple):
    """BLOCK lanes a program, STEPS time steps loaded before the first is computed, warps a program."""

    block: int
    steps: int
    num_warps: int


Layout = TypeVar("Layout")


class TimeLoop(NamedTuple, Generic[Layout]):
    """An op's layouts by architecture, and when its scan is cut in time.

    Attributes:
        table: architecture → (layout for few lanes, layout for many lanes); a lane is one (b, d).
        many_lanes: from here on a thread takes several lanes, for wider loads.
        lanes_wanted: below this a GPU's schedulers stand idle, and a long scan is cut into chunks.
        shortest_chunk: in time steps.
    """

    table: dict[int, tuple[Layout, Layout]]
    many_lanes: int = 65_536
    lanes_wanted: int = 16_384
    shortest_chunk: int = 128

    def config(self, lanes: int) -> Layout:
        """The layout for a number of lanes on the current device."""
        few, many = for_architecture(self.table, architecture())
        return many if lanes >= self.many_lanes else few

    def chunk_length(self, lanes: int, length: int) -> int:
        """Steps a chunk; the whole length (at least 1) where there are lanes enough."""
        chunks = min(length // self.shortest_chunk, -(-self.lanes_wanted // max(1, lanes)))
        return -(-length // chunks) if chunks > 1 else max(1, length)


def rows_contiguous(x: Tensor, first: int = 2) -> Tensor:
    """The tensor, copied unless the dimensions from ``first`` on lie side by side; any strides before."""
    size = 1
    for dim in range(x.ndim - 1, first - 1, -1):
        if x.shape[dim] > 1 and x.stride(dim) != size:
            return x.contiguous()
        size *= x.shape[dim]
    return x


def pointers(kernel: triton.JITFunction, **tensors: Tensor | None) -> dict[str, Tensor | None]:
    """A kernel's pointer arguments: those given (by their names without ``_ptr``), None for the others."""
    names = [name for name in kernel.arg_names if name.endswith("_ptr")]
    given = {f"{name}_ptr": tensor for name, tensor in tensors.items()}
    if unknown := given.keys() - set(names):
        raise TypeError(f"{kernel.__name__} has no pointers {sorted(unknown)}.")
    return {name: given.get(name) for name in names}


@triton.jit
def row_bounds(offsets_ptr, length, chunks, chunk_length, first_row=0):
    """(row, its sequence, that one's place in memory and first step, the row's first step and end), int64."""
    # Divided in 32 bits: a division in 64 is a function call, around which registers spill.
    row = tl.program_id(0) + first_row
    chunk = (row % chunks).to(tl.int64)
    sequence = (row // chunks).to(tl.int64)
    row = row.to(tl.int64)
    if offsets_ptr is not None:
        place = row * 0
        begin = tl.load(offsets_ptr + row).to(tl.int64)
        end = tl.load(offsets_ptr + row + 1).to(tl.int64)
        first = begin
    else:
        place = sequence
        begin = chunk * chunk_length
        end = tl.minimum(begin + chunk_length, length)
        first = row * 0
    return row, sequence, place, first, begin, end
