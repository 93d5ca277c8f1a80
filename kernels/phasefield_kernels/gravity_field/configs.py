"""Tiles of gravity_field's kernels: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

import torch

from ..device import architecture, for_architecture


class Layout(NamedTuple):
    """How a kernel is laid out.

    Attributes:
        points, sources: of a tile.
        chunk: coordinates that are multiplied at a time; a whole row at once if it is not wider.
        num_warps: a program.
        num_stages: tiles that are met on their way at a time.
    """

    points: int
    sources: int
    chunk: int
    num_warps: int
    num_stages: int


class Layouts(NamedTuple):
    """Layouts for widths up to 64, 128 and 256."""

    narrow: Layout
    middle: Layout
    wide: Layout


class Kernels(NamedTuple):
    """The layouts of the force's kernel and of the gradients to points and to sources."""

    field: Layouts
    points: Layouts
    sources: Layouts


_HALF = Kernels(
    field=Layouts(Layout(64, 64, 64, 4, 2), Layout(64, 64, 128, 8, 2), Layout(32, 32, 256, 4, 2)),
    points=Layouts(Layout(64, 32, 64, 4, 2), Layout(32, 32, 128, 4, 2), Layout(32, 32, 256, 8, 2)),
    sources=Layouts(Layout(32, 64, 64, 4, 2), Layout(32, 32, 128, 4, 2), Layout(32, 32, 256, 8, 2)),
)
_SINGLE = Kernels(
    field=Layouts(Layout(32, 32, 16, 8, 2), Layout(32, 32, 16, 8, 2), Layout(32, 32, 16, 8, 2)),
    points=Layouts(Layout(32, 32, 16, 8, 2), Layout(32, 32, 16, 8, 2), Layout(32, 32, 16, 8, 2)),
    sources=Layouts(Layout(32, 32, 16, 8, 2), Layout(32, 32, 16, 8, 2), Layout(16, 32, 16, 8, 2)),
)

# Instructions of sm_120 want more registers: two tiles are halved.
_HALF_120 = _HALF._replace(
    points=_HALF.points._replace(narrow=Layout(32, 32, 64, 4, 2)),
    sources=_HALF.sources._replace(wide=Layout(32, 16, 256, 8, 2)),
)

HALF = {80: _HALF, 120: _HALF_120}
"""Architecture → layouts for bfloat16 and float16."""

SINGLE = {80: _SINGLE}
"""Architecture → layouts for float32, multiplied in full on the ordinary units."""


def kernels_for(dtype: torch.dtype) -> Kernels:
    """The layouts for points of a dtype."""
    return for_architecture(SINGLE if dtype == torch.float32 else HALF, architecture())


def for_width(layouts: Layouts, width: int) -> Layout:
    """The layout for a width."""
    layout = layouts.narrow if width <= 64 else layouts.middle if width <= 128 else layouts.wide
    # AMD's waves have 64 lanes, two warps' worth; of more than four, each gets half the registers.
    return layout if isinstance(architecture(), int) else layout._replace(num_warps=layout.num_warps // 2)


def half_precision() -> str:
    """How float16 values and their weights are multiplied: both are exact in tf32, which not all AMD has."""
    return "tf32" if isinstance(architecture(), int) else "ieee"


def near_warps(pairs: int) -> int:
    """Warps of a program of the near kernel, whose tiles are those of the kernel before it."""
    warps = 4 if pairs <= 1024 else 8
    return warps if isinstance(architecture(), int) else warps // 2
