"""How hebbian_scan's kernels are laid out: chosen by the compile report, not measured on a device."""

from typing import NamedTuple

import torch

from ..device import architecture, for_architecture


class Config(NamedTuple):
    """Tiles and warps for heads up to a size.

    Attributes:
        chunk: steps.
        state_rows: rows of a state that one program of the state kernel owns.
        state_warps: of that kernel.
        block: rows or columns that the chunk kernels take at a time.
        warps: of those kernels.
    """

    chunk: int
    state_rows: int
    state_warps: int
    block: int
    warps: int


# Largest head (K or V) → configuration.
Table = dict[int, Config]

_HALF: Table = {
    64: Config(64, 32, 4, 64, 8),
    128: Config(64, 32, 4, 64, 8),
    256: Config(64, 32, 8, 64, 8),
}
_HALF_COMPLEX: Table = {
    64: Config(32, 32, 4, 32, 4),
    128: Config(32, 16, 4, 32, 4),
    256: Config(32, 16, 8, 32, 4),
}
_SINGLE: Table = {
    64: Config(32, 16, 4, 32, 4),
    128: Config(32, 16, 4, 32, 4),
    256: Config(16, 16, 8, 32, 4),
}
_SINGLE_COMPLEX: Table = {
    64: Config(16, 16, 4, 16, 4),
    128: Config(16, 16, 4, 16, 4),
    256: Config(16, 16, 8, 16, 4),
}

TABLES: dict[tuple[bool, bool], dict[int, Table]] = {
    (True, False): {80: _HALF},
    (True, True): {80: _HALF_COMPLEX},
    (False, False): {80: _SINGLE},
    (False, True): {80: _SINGLE_COMPLEX},
}
"""(16-bit inputs, complex) → architecture → table; float32 is multiplied in full on the ordinary units."""


def config(dtype: torch.dtype, is_complex: bool, columns: int, rows: int) -> Config:
    """The configuration for inputs of a dtype and a state of rows · columns, on the current device."""
    table = for_architecture(TABLES[dtype != torch.float32, is_complex], architecture())
    return table[min(size for size in table if size >= max(columns, rows))]


def inverse_precision(dtype: torch.dtype) -> str:
    """How the float32 inverse of a chunk is multiplied: with 16-bit inputs on tensor cores, in three parts.

    AMD's matrix units multiply float32 as it is.
    """
    return "tf32x3" if dtype != torch.float32 and isinstance(architecture(), int) else "ieee"
