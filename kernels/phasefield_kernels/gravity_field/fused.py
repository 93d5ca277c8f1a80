"""gravity_field in Triton: points own tiles of the force, sources tiles of their gradients.

Launches forward: the sources' squared norms (one float32 each), then the force. Backward: the points' norms
and G·x, the sources' norms if they are not the points, then the gradient to points and the gradients to
sources and masses, each recomputing its tiles. Points that are their own sources hand the first to the
second in float32.
"""

import torch
import triton
from torch import Tensor

from ..device import guard
from . import fused_kernels
from .blocked import NEAR
from .configs import Layout, for_width, kernels_for

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
    points, sources = _rows(x), _rows(x if source is None else source)
    force = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if force.numel() == 0:
        return force
    kernels = kernels_for(x.dtype)
    layout = for_width(kernels.field, x.shape[2])
    with guard(x):
        norms, _ = _prepared(sources, None)
        fused_kernels._field_kernel[_grid(points, layout.points)](
            points, mass, sources, norms, force,
            *_sizes(points, sources, source, window), *points.stride()[:2], *_strides(mass),
            *sources.stride()[:2], strength, softening**2, CAUSAL=causal or source is not None,
            **_options(layout, kernels.precision, x.shape[2]),
        )  # fmt: skip
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
    grad, points, sources = _rows(grad), _rows(x), _rows(x if own else source)
    new = dict(device=x.device)
    grad_x = torch.empty(x.shape, dtype=torch.float32 if own else x.dtype, **new) if for_x else None
    grad_source = torch.empty(sources.shape, dtype=x.dtype, **new) if for_source else None
    grad_mass = torch.empty(sources.shape[:2], dtype=torch.float32, **new) if for_mass else None
    kernels, width = kernels_for(x.dtype), x.shape[2]
    strides = (*grad.stride()[:2], *points.stride()[:2], *_strides(mass), *sources.stride()[:2])
    sizes = _sizes(points, sources, source, window)
    with guard(x):
        norms, along = _prepared(points, grad)
        source_norms = norms if own else _prepared(sources, None)[0]
        if for_x and x.numel():
            layout = for_width(kernels.points, width)
            fused_kernels._points_kernel[_grid(points, layout.points)](
                grad, points, mass, sources, source_norms, grad_x,
                *sizes, *strides, strength, softening**2, CAUSAL=causal or not own,
                **_options(layout, kernels.precision, width),
            )  # fmt: skip
        if (for_source or for_mass) and sources.numel():
            layout = for_width(kernels.sources, width)
            fused_kernels._sources_kernel[_grid(sources, layout.sources)](
                grad, points, mass, sources, norms, along, grad_x if own else None, grad_source, grad_mass,
                *sizes, *strides, strength, softening**2, CAUSAL=causal or not own,
                **_options(layout, kernels.precision, width),
            )  # fmt: skip
    grad_mass = None if grad_mass is None else grad_mass.to(mass.dtype)
    return (grad_source, grad_mass, None) if own else (grad_x, grad_mass, grad_source)


def _prepared(x: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor | None]:
    # |x|² and G·x, [B, T] in float32.
    norms = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    along = None if grad is None else torch.empty_like(norms)
    if x.numel():
        fused_kernels._prepare_kernel[_grid(x, _PREPARED_ROWS)](
            x, grad, norms, along, x.shape[1], x.shape[2], *x.stride()[:2],
            *((0, 0) if grad is None else grad.stride()[:2]),
            BLOCK_ROWS=_PREPARED_ROWS, BLOCK_WIDTH=_block(x.shape[2]), num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return norms, along


def _sizes(
    points: Tensor, sources: Tensor, source: Tensor | None, window: int | None
) -> tuple[int, int, int, int, int | None]:
    before = 0 if source is None else source.shape[1]
    return points.shape[1], sources.shape[1], points.shape[2], before, window


def _options(layout: Layout, precision: str, width: int) -> dict[str, int | str | bool | float]:
    return dict(
        NEAR=NEAR, PRECISION=precision, HALF_PRECISION="tf32",
        BLOCK_POINTS=layout.points, BLOCK_SOURCES=layout.sources, BLOCK_WIDTH=_block(width),
        num_warps=layout.num_warps, num_stages=layout.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


def _block(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _grid(rows: Tensor, block: int) -> tuple[int]:
    return (rows.shape[0] * triton.cdiv(rows.shape[1], block),)


def _rows(x: Tensor) -> Tensor:
    # Rows of neighbouring numbers; any other strides.
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _strides(mass: Tensor | None) -> tuple[int, int]:
    return (0, 0) if mass is None else mass.stride()
