"""gravity_field in Triton: points own tiles of the force, sources tiles of their gradients.

Launches forward: the sources' squared norms (one float32 each), the force, and the near tiles (whose notes
are a byte a tile). Backward: the points' norms and G·x, the sources' norms if they are not the points, then
the gradient to points and the gradients to sources and masses, each recomputing its tiles and followed by its
near ones. Points that are their own sources hand the first to the second in float32.
"""

import torch
import triton
from torch import Tensor

from ..device import guard, register_limit
from . import fused_kernels, fused_near
from .blocked import NEAR
from .configs import (
    Kernels,
    Layout,
    for_width,
    half_precision,
    kernels_for,
    near_warps,
)

_PREPARED_ROWS = 16


def forward(
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The force on every point; arguments as in the public function."""
    call = _Call(x, mass, source, strength, softening, causal, window)
    force = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if force.numel() == 0:
        return force
    with guard(x):
        norms, _ = _prepared(call.sources, None)
        layout = for_width(call.kernels.field, call.width)
        near = call.notes(call.points, layout.points, call.sources, layout.sources)
        fused_kernels._field_kernel[_grid(call.points, layout.points)](
            call.points, mass, call.sources, norms, near, force,
            *call.sizes, *call.points.stride()[:2], *_strides(mass), *call.sources.stride()[:2],
            *call.numbers, **call.options(layout),
        )  # fmt: skip
        call.near_points(None, near, force, layout)
    return force


def backward(
    grad: Tensor,
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, mass and source, those that are needed: the mathematics is in blocked.py."""
    for_x, for_mass, for_source = needs
    own = source is None
    for_source = for_source or (for_x and own)
    call = _Call(x, mass, source, strength, softening, causal, window)
    grad, points, sources = _rows(grad), call.points, call.sources
    new = dict(device=x.device)
    grad_x = torch.empty(x.shape, dtype=torch.float32 if own else x.dtype, **new) if for_x else None
    grad_source = torch.empty(sources.shape, dtype=x.dtype, **new) if for_source else None
    grad_mass = torch.empty(sources.shape[:2], dtype=torch.float32, **new) if for_mass else None
    strides = (*grad.stride()[:2], *points.stride()[:2], *_strides(mass), *sources.stride()[:2])
    with guard(x):
        norms, along = _prepared(points, grad)
        source_norms = norms if own else _prepared(sources, None)[0]
        if for_x and x.numel():
            layout = for_width(call.kernels.points, call.width)
            near = call.notes(points, layout.points, sources, layout.sources)
            fused_kernels._points_kernel[_grid(points, layout.points)](
                grad, points, mass, sources, source_norms, near, grad_x,
                *call.sizes, *strides, *call.numbers, **call.options(layout),
            )  # fmt: skip
            call.near_points(grad, near, grad_x, layout)
        if (for_source or for_mass) and sources.shape[:2].numel():
            layout = for_width(call.kernels.sources, call.width)
            near = call.notes(sources, layout.sources, points, layout.points)
            fused_kernels._sources_kernel[_grid(sources, layout.sources)](
                grad, points, mass, sources, norms, along, near, grad_x if own else None, grad_source,
                grad_mass, *call.sizes, *strides, *call.numbers, **call.options(layout),
            )  # fmt: skip
            call.near_sources(grad, near, grad_source, grad_mass, layout)
    grad_mass = None if grad_mass is None else grad_mass.to(mass.dtype)
    return (grad_source, grad_mass, None) if own else (grad_x, grad_mass, grad_source)


class _Call:
    """What every launch of one call is given.

    Attributes:
        points, sources: with rows of neighbouring numbers.
        width: D.
        kernels: their layouts.
        sizes, numbers: scalar arguments of kernels.
    """

    def __init__(
        self,
        x: Tensor,
        mass: Tensor | None,
        source: Tensor | None,
        strength: float,
        softening: float,
        causal: bool,
        window: int | None,
    ) -> None:
        self.points, self.width = _rows(x), x.shape[2]
        self.sources = self.points if source is None else _rows(source)
        self.kernels: Kernels = kernels_for(x.dtype)
        self._mass, self._causal = mass, causal or source is not None
        before = 0 if source is None else source.shape[1]
        self._places = (self.width, before, window)
        self.sizes = (x.shape[1], self.sources.shape[1], *self._places)
        self.numbers = (strength, softening**2)

    def options(self, layout: Layout) -> dict[str, int | str | bool | float]:
        """Compile-time arguments of the kernels that multiply."""
        return dict(
            CAUSAL=self._causal, NEAR=NEAR, HALF_PRECISION=half_precision(), BLOCK_POINTS=layout.points,
            BLOCK_SOURCES=layout.sources, BLOCK_WIDTH=_block(self.width), CHUNK=layout.chunk,
            num_warps=layout.num_warps, num_stages=layout.num_stages, enable_fp_fusion=True,
            **register_limit(),
        )  # fmt: skip

    def notes(self, own: Tensor, own_block: int, other: Tensor, other_block: int) -> Tensor:
        """Room for a byte for each pair of tiles."""
        tiles = triton.cdiv(own.shape[1], own_block), triton.cdiv(other.shape[1], other_block)
        return torch.empty((own.shape[0], *tiles), dtype=torch.int8, device=own.device)

    def near_points(self, grad: Tensor | None, near: Tensor, out: Tensor, layout: Layout) -> None:
        """Add the tiles noted to the force, or with dL/dF to its gradient to points."""
        self._near(grad, self.points, self.sources, near, out, None, layout.points, layout.sources, True)

    def near_sources(
        self, grad: Tensor, near: Tensor, out: Tensor | None, mass_out: Tensor | None, layout: Layout
    ) -> None:
        """Add the tiles noted to the gradients to sources and masses."""
        self._near(grad, self.sources, self.points, near, out, mass_out, layout.sources, layout.points, False)

    def _near(
        self,
        grad: Tensor | None,
        own: Tensor,
        other: Tensor,
        near: Tensor,
        out: Tensor | None,
        mass_out: Tensor | None,
        own_block: int,
        other_block: int,
        are_points: bool,
    ) -> None:
        fused_near._near_kernel[_grid(own, own_block)](
            grad, own, self._mass, other, near, out, mass_out,
            own.shape[1], other.shape[1], *self._places, *((0, 0) if grad is None else grad.stride()[:2]),
            *own.stride()[:2], *_strides(self._mass), *other.stride()[:2], *self.numbers,
            CAUSAL=self._causal, POINTS=are_points, BLOCK_OWN=own_block, BLOCK_OTHER=other_block,
            BLOCK_WIDTH=_block(self.width), num_warps=near_warps(own_block * other_block),
            enable_fp_fusion=True, **register_limit(),
        )  # fmt: skip


def _prepared(x: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor | None]:
    # |x|² and G·x, [B, T] in float32.
    norms = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    along = None if grad is None else torch.empty_like(norms)
    if norms.numel():
        fused_kernels._prepare_kernel[_grid(x, _PREPARED_ROWS)](
            x, grad, norms, along, x.shape[1], x.shape[2], *x.stride()[:2],
            *((0, 0) if grad is None else grad.stride()[:2]),
            BLOCK_ROWS=_PREPARED_ROWS, BLOCK_WIDTH=_block(x.shape[2]), num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip
    return norms, along


def _block(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _grid(x: Tensor, block: int) -> tuple[int]:
    return (x.shape[0] * triton.cdiv(x.shape[1], block),)


def _rows(x: Tensor) -> Tensor:
    # Rows of neighbouring numbers; any other strides.
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _strides(mass: Tensor | None) -> tuple[int, int]:
    return (0, 0) if mass is None else mass.stride()
