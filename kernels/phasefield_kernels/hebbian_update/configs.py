"""Tiles of hebbian_update_: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

import torch

from ..complex_product.configs import Tile
from ..device import architecture, for_architecture


class Tiles(NamedTuple):
    """An architecture's tiles.

    Attributes:
        large: of a weight of many tiles.
        random: of such a weight that is rounded stochastically, which takes registers for the random bits.
        small: of a weight of few tiles.
    """

    large: Tile
    random: Tile
    small: Tile


_AMPERE = Tiles(Tile(128, 128, 32, 8, 3), Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3))
_HOPPER = Tiles(Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 4, 3))
_SINGLE = Tiles(Tile(64, 128, 16, 8, 3), Tile(64, 128, 16, 8, 3), Tile(64, 32, 16, 4, 3))

HALF = {80: _AMPERE, 90: _HOPPER, 100: _AMPERE}
"""Architecture → tiles for bfloat16 and float16 activity."""

SINGLE = {80: _SINGLE}
"""Architecture → tiles for float32 activity, multiplied in full on the ordinary units."""

FINISH = (16, 128)
"""Rows and columns of a weight that a program of the second stage owns."""

PROGRAMS_WANTED = 128
"""With fewer tiles than this, smaller tiles keep more multiprocessors busy, and long sums are split."""


def tile_and_splits(
    dtype: torch.dtype, units: int, inputs: int, rows: int, *, stochastic: bool = False
) -> tuple[Tile, int]:
    """The tile for activity of a dtype, and into how many pieces the sum over its rows is cut."""
    tiles = for_architecture(SINGLE if dtype == torch.float32 else HALF, architecture())
    tile = tiles.random if stochastic else tiles.large
    tile = tile if _tiles(tile, units, inputs) >= PROGRAMS_WANTED else tiles.small
    # A piece is at least 8 steps long: its partial sums then cost less than what it reads.
    splits = min(PROGRAMS_WANTED // _tiles(tile, units, inputs), rows // (8 * tile.inner))
    return tile, max(1, splits)


def _tiles(tile: Tile, units: int, inputs: int) -> int:
    return -(-units // tile.rows) * -(-inputs // tile.columns)
