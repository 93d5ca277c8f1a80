"""Tiles of gravity_field's kernels: chosen by the compile report, not measured on a device."""

from typing import NamedTuple

import torch

from ..device import architecture, for_architecture


class Layout(NamedTuple):
    """Points and sources of a tile, warps a program, tiles that are met on their way at a time."""

    points: int
    sources: int
    num_warps: int
    num_stages: int


class Layouts(NamedTuple):
    """Layouts for widths up to 64, 128 and 256."""

    narrow: Layout
    middle: Layout
    wide: Layout


class Kernels(NamedTuple):
    """The layouts of each kernel, and how float32 is multiplied.

    ``precision`` is float32 inputs': ``"ieee"`` or ``"tf32x3"``. ``half_precision`` is that of float16 inputs with
    weights, both exact in tf32. Three products of tf32 parts cost a third of the tensor cores' rate and err by 2^-21 of a product instead of
    2^-24. That pays where tensor cores are much faster than the ordinary units, as on sm_80 and sm_90; a
    gaming card's are not.
    """

    field: Layouts
    points: Layouts
    sources: Layouts
    precision: str = "ieee"
    half_precision: str = "tf32"


_HALF = Kernels(
    field=Layouts(Layout(64, 64, 4, 3), Layout(64, 64, 8, 2), Layout(32, 32, 4, 2)),
    points=Layouts(Layout(64, 64, 8, 2), Layout(64, 32, 8, 2), Layout(32, 32, 8, 2)),
    sources=Layouts(Layout(64, 64, 8, 2), Layout(32, 64, 8, 2), Layout(32, 32, 8, 2)),
)
_SINGLE = Kernels(
    field=Layouts(Layout(64, 32, 8, 2), Layout(32, 32, 8, 2), Layout(32, 32, 8, 1)),
    points=Layouts(Layout(32, 32, 8, 2), Layout(32, 32, 8, 1), Layout(16, 16, 8, 1)),
    sources=Layouts(Layout(32, 32, 8, 2), Layout(32, 32, 8, 1), Layout(16, 16, 8, 1)),
)

HALF = {80: _HALF}
"""Architecture → layouts for bfloat16 and float16."""

SINGLE = {80: _SINGLE._replace(precision="tf32x3"), 86: _SINGLE, 90: _SINGLE._replace(precision="tf32x3"), 120: _SINGLE}
"""Architecture → layouts for float32."""


def kernels_for(dtype: torch.dtype) -> Kernels:
    """The layouts for points of a dtype."""
    target = architecture()
    kernels = for_architecture(SINGLE if dtype == torch.float32 else HALF, target)
    # AMD's matrix units multiply float32 as it is.
    return kernels if isinstance(target, int) else kernels._replace(precision="ieee", half_precision="ieee")


def for_width(layouts: Layouts, width: int) -> Layout:
    """The layout for a width."""
    return layouts.narrow if width <= 64 else layouts.middle if width <= 128 else layouts.wide
