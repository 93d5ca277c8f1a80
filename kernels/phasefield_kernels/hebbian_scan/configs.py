"""How hebbian_scan's kernels are laid out: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

import torch

from ..device import architecture, for_architecture


class Tile(NamedTuple):
    """Rows or columns of a state that a kernel takes at a time, warps, and loads on their way at a time."""

    block: int
    num_warps: int
    num_stages: int


class Config(NamedTuple):
    """Tiles for heads up to a size.

    Attributes:
        chunk: steps.
        tile: of the kernels that a chunk has to itself, but for the last of the backward.
        gradient: of that one, which has most to hold.
        state: rows, of the kernel that walks over the chunks; its columns are those of ``tile``.
        resident: its states stay in registers; else in memory (the cache), where they are too wide.
    """

    chunk: int
    tile: Tile
    gradient: Tile
    state: Tile
    resident: bool


# Largest head (K or V) → configuration. The delta rule's states have to be read by whole rows. Tables of
# later architectures differ where the first one's kernels spill there.
Table = dict[int, Config]

# Up to 64 a tile is a whole state: scores are computed once, and a warp has enough to do.
_HALF: Table = {
    64: Config(64, Tile(64, 4, 2), Tile(32, 4, 2), Tile(32, 2, 2), True),
    256: Config(64, Tile(32, 8, 2), Tile(32, 8, 2), Tile(64, 4, 2), True),
}
_HALF_DELTA: Table = {
    64: Config(32, Tile(64, 2, 1), Tile(32, 4, 2), Tile(32, 2, 2), True),
    256: Config(32, Tile(32, 4, 1), Tile(32, 4, 2), Tile(32, 4, 2), False),
}
_HALF_COMPLEX: Table = {256: Config(32, Tile(32, 8, 2), Tile(16, 4, 2), Tile(32, 4, 2), True)}
_HALF_COMPLEX_DELTA: Table = {256: Config(16, Tile(32, 4, 2), Tile(32, 4, 2), Tile(16, 4, 2), False)}
_HALF_COMPLEX_DELTA_120: Table = {256: _HALF_COMPLEX_DELTA[256]._replace(tile=Tile(32, 4, 1))}
_SINGLE: Table = {256: Config(32, Tile(32, 4, 2), Tile(16, 4, 2), Tile(32, 4, 2), True)}
_SINGLE_120: Table = {256: _SINGLE[256]._replace(state=Tile(32, 4, 1))}
_SINGLE_DELTA: Table = {256: Config(16, Tile(32, 4, 1), Tile(32, 8, 1), Tile(16, 4, 1), False)}
_SINGLE_DELTA_86: Table = {256: _SINGLE_DELTA[256]._replace(state=Tile(16, 4, 2))}
_SINGLE_COMPLEX: Table = {256: Config(16, Tile(16, 4, 2), Tile(16, 4, 2), Tile(16, 4, 2), True)}
_SINGLE_COMPLEX_DELTA: Table = {256: Config(16, Tile(16, 4, 2), Tile(16, 8, 1), Tile(16, 4, 1), False)}

TABLES: dict[tuple[bool, bool, bool], dict[int, Table]] = {
    (True, False, False): {80: _HALF},
    (True, False, True): {80: _HALF_DELTA},
    (True, True, False): {80: _HALF_COMPLEX},
    (True, True, True): {80: _HALF_COMPLEX_DELTA, 120: _HALF_COMPLEX_DELTA_120},
    (False, False, False): {80: _SINGLE, 120: _SINGLE_120},
    (False, False, True): {80: _SINGLE_DELTA, 86: _SINGLE_DELTA_86},
    (False, True, False): {80: _SINGLE_COMPLEX},
    (False, True, True): {80: _SINGLE_COMPLEX_DELTA},
}
"""(16-bit inputs, complex, delta rule) → architecture → table; float32 is multiplied in full."""


def config(dtype: torch.dtype, is_complex: bool, delta: bool, columns: int, rows: int) -> Config:
    """The configuration for inputs of a dtype and a state of rows · columns, on the current device."""
    table = for_architecture(TABLES[dtype != torch.float32, is_complex, delta], architecture())
    return table[min(size for size in table if size >= max(columns, rows))]


def inverse_precision(dtype: torch.dtype) -> str:
    """How the float32 inverse of a chunk is multiplied: with 16-bit inputs on tensor cores, in three parts.

    AMD's matrix units multiply float32 as it is.
    """
    return "tf32x3" if dtype != torch.float32 and isinstance(architecture(), int) else "ieee"
