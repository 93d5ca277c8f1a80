"""Tiles of the complex products: chosen by the compile report, not measured on a device."""

from typing import NamedTuple

import torch

from ..device import architecture, for_architecture


class Tile(NamedTuple):
    """A tile of the real product that a program computes, in floats, and how it is computed.

    Attributes:
        rows, columns: of the output; ``columns`` counts both parts, and in folded products ``rows`` too.
        inner: summed over at a time.
        num_warps: a program.
        num_stages: tiles of the operands on their way at a time.
    """

    rows: int
    columns: int
    inner: int
    num_warps: int
    num_stages: int


GROUP = 8
"""Tile rows that neighbouring programs walk through together, so that a column of tiles is read once for 8."""

_HALF = {"large": Tile(128, 128, 32, 8, 3), "small": Tile(64, 64, 32, 4, 3), "few": Tile(64, 16, 64, 4, 3)}
_SINGLE = {"large": Tile(64, 64, 16, 4, 3), "small": Tile(32, 64, 16, 4, 3), "few": Tile(32, 16, 32, 2, 3)}

TABLE = {"half": {80: _HALF}, "single": {80: _SINGLE}}
"""Kind of operand (two or four bytes) → architecture → shape → tile."""

PROGRAMS_WANTED = 128
"""With fewer tiles than this, smaller tiles keep more multiprocessors busy, and long sums are split."""


def tile_for(dtype: torch.dtype, rows: int, columns: int, batch: int) -> Tile:
    """The tile of a product with a real output ``[batch, rows, columns]``."""
    kinds = for_architecture(TABLE["single" if dtype == torch.float32 else "half"], architecture())
    if columns <= 16 or rows <= 16:
        return kinds["few"]
    large = kinds["large"]
    tiles = batch * -(-rows // large.rows) * -(-columns // large.columns)
    return large if tiles >= PROGRAMS_WANTED else kinds["small"]


def precision() -> str:
    """How float32 operands are multiplied: tf32 only where torch's own setting allows it."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
