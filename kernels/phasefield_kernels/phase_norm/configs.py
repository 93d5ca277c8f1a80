"""How phase_norm's kernels are laid out: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

from ..device import architecture, for_architecture


class Tile(NamedTuple):
    """Rows and columns that a program holds at a time.

    Attributes:
        pairs: complex numbers a tile; a row that is longer is a tile by itself.
        num_warps: a program; more where a row is longer than a tile.
    """

    pairs: int
    num_warps: int


class Tiles(NamedTuple):
    """An architecture's tiles; the backward's hold two tensors and sums for two parameters."""

    forward: Tile
    backward: Tile


TABLE = {80: Tiles(forward=Tile(1024, 4), backward=Tile(512, 4))}
"""Architecture → tiles."""

WIDEST = 4096
"""Complex numbers a row, above which the backward's tile spills and the torch form runs."""

PIECES_WANTED = 512
"""Into how many pieces the backward's sums over rows are cut, if each has SHORTEST_PIECE rows."""

SHORTEST_PIECE = 32
"""Rows, whose partial sums are then 2 % of what is read and written in bfloat16."""


class Layout(NamedTuple):
    """ROWS × BLOCK complex numbers a tile, warps a program."""

    rows: int
    block: int
    num_warps: int


def layout(direction: str, width: int) -> Layout:
    """The layout for rows of a width.

    Args:
        direction: ``"forward"`` or ``"backward"``.
    """
    tile: Tile = getattr(for_architecture(TABLE, architecture()), direction)
    block = 1 << max(0, width - 1).bit_length()
    warps = tile.num_warps * max(1, block // tile.pairs)
    return Layout(max(1, tile.pairs // block), block, min(warps, 16))


def piece_of(rows: int, rows_at_a_time: int) -> int:
    """Rows whose sums a program of the backward forms, a multiple of those it holds at a time."""
    wanted = max(SHORTEST_PIECE, -(-rows // PIECES_WANTED))
    return -(-wanted // rows_at_a_time) * rows_at_a_time
