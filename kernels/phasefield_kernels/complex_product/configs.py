"""Tiles of the complex products: chosen by the compile report where nothing else is said."""

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
"""Tile rows that neighbouring programs walk through together: they read the same columns from the cache."""


class Tiles(NamedTuple):
    """An architecture's tiles: by size of the output, and by what else needs registers.

    Attributes:
        large: outputs of many tiles.
        activated: these with modReLU, whose modulus and saved pre-activations take as many registers again.
        gauss: these with three accumulators.
        small: outputs of few tiles.
        small_gauss: these with three accumulators; with more warps or stages some targets spill.
        few: outputs of up to 16 rows or columns.
    """

    large: Tile
    activated: Tile
    gauss: Tile
    small: Tile
    small_gauss: Tile
    few: Tile


_AMPERE = Tiles(
    large=Tile(128, 128, 32, 8, 3),
    activated=Tile(128, 64, 32, 8, 3),
    gauss=Tile(64, 128, 32, 8, 3),
    small=Tile(64, 64, 32, 4, 3),
    small_gauss=Tile(64, 64, 32, 4, 2),
    few=Tile(64, 16, 64, 4, 3),
)
# 128 · 128 takes 98,304 bytes: what HGMMA multiplies has to be in shared memory.
_HOPPER = _AMPERE._replace(large=Tile(128, 128, 64, 8, 3), activated=Tile(128, 64, 64, 8, 3))
_SINGLE = Tiles(
    large=Tile(64, 128, 16, 8, 3),
    activated=Tile(64, 128, 16, 8, 3),
    gauss=Tile(64, 64, 16, 4, 2),
    small=Tile(64, 32, 16, 4, 3),
    small_gauss=Tile(64, 64, 16, 4, 2),
    few=Tile(32, 16, 32, 2, 3),
)

HALF = {80: _AMPERE, 90: _HOPPER, 100: _AMPERE}
"""Architecture → tiles for bfloat16 and float16."""

SINGLE = {80: _SINGLE}
"""Architecture → tiles for float32, multiplied in full on the ordinary units."""

PROGRAMS_WANTED = 128
"""With fewer tiles than this, smaller tiles keep more multiprocessors busy, and long sums are split."""


def tile_for(dtype: torch.dtype, rows: int, columns: int, batch: int, kind: str = "large") -> Tile:
    """The tile of a product with a real output ``[batch, rows, columns]``.

    Args:
        dtype: of the operands.
        kind: ``"large"``, ``"activated"`` or ``"gauss"``.
    """
    tiles = for_architecture(SINGLE if dtype == torch.float32 else HALF, architecture())
    if kind != "gauss" and min(rows, columns) <= 16:
        return tiles.few
    tile = getattr(tiles, kind)
    programs = batch * -(-rows // tile.rows) * -(-columns // tile.columns)
    if programs >= PROGRAMS_WANTED:
        return tile
    return tiles.small_gauss if kind == "gauss" else tiles.small


def precision() -> str:
    """How float32 operands are multiplied: tf32 only where torch's own setting allows it."""
    setting = torch.backends.cuda.matmul
    if hasattr(setting, "fp32_precision"):  # since torch 2.9; the older one raises where this has been set
        return "tf32" if setting.fp32_precision == "tf32" else "ieee"
    return "tf32" if setting.allow_tf32 else "ieee"
