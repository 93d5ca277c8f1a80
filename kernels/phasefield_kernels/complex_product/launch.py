"""Launches of the complex products: operands prepared, tiles chosen, batches broadcast without copies.

Matrices are ``[outer, within, rows, columns, 2]``: two batch dimensions, of which any may have stride 0.
"""

import torch
import triton
from torch import Tensor

from ..device import guard
from . import fused_operands, fused_product
from .configs import GROUP, PROGRAMS_WANTED, precision, tile_for

_PREPARED = dict(BLOCK_ROWS=32, BLOCK_INNER=32, num_warps=4, enable_fp_fusion=True)


def product(
    a: Tensor,
    w: Tensor,
    *,
    conjugate: bool = False,
    algorithm: str = "direct",
    bias: Tensor | None = None,
    threshold: Tensor | None = None,
    residual: Tensor | None = None,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``y[m, n] = Σ_k a[m, k] w[n, k]``, w conjugated if asked for; then bias, modReLU and residual.

    Args:
        a: ``[O, I, M, K, 2]``; its dtype is that of the multiplication and of y.
        w: ``[O, I, N, K, 2]``, any floating dtype; rounded to a's.
        residual: like y, contiguous.
        keep: also return what the backward of modReLU needs: pre-activations, 0 where under the threshold.
    """
    if algorithm == "gauss":
        return gauss(
            a, w, conjugate_right=conjugate, bias=bias, threshold=threshold, residual=residual, keep=keep
        )
    outer, within, rows, inner = a.shape[:4]
    units = w.shape[2]
    # The structured operand is written and read at twice its size: it is w, but for a handful of rows.
    swapped = rows <= 8 and rows < units and w.dtype == a.dtype and not conjugate and _is_interleaved(w)
    y = torch.empty((outer, within, rows, units, 2), dtype=a.dtype, device=a.device)
    saved = torch.empty_like(y) if keep else None
    if y.numel() == 0:
        return y, saved
    if swapped:
        left, right = w, structured(a, a.dtype, False)
    else:
        left, right = _interleaved(a), structured(w, a.dtype, conjugate)
    real_rows, real_columns = left.shape[2], right.shape[2]
    tile = tile_for(
        a.dtype, real_rows, real_columns, outer * within, "large" if threshold is None else "activated"
    )
    with guard(a):
        fused_product._product_kernel[_grid(tile, outer * within, real_rows, real_columns)](
            left, right, bias, threshold, residual, y, saved,
            real_rows, real_columns, 2 * inner, within, *left.stride()[:3], *right.stride()[:2],
            SWAPPED=swapped, PRECISION=precision(), **_options(tile),
        )  # fmt: skip
    return y, saved


def gauss(
    a: Tensor,
    w: Tensor,
    *,
    conjugate_left: bool = False,
    conjugate_right: bool = False,
    dtype: torch.dtype | None = None,
    bias: Tensor | None = None,
    threshold: Tensor | None = None,
    residual: Tensor | None = None,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """:func:`product` with three real multiplications; a may be conjugated, and y have another dtype."""
    outer, within, rows, inner = a.shape[:4]
    units = w.shape[2]
    y = torch.empty((outer, within, rows, units, 2), dtype=dtype or a.dtype, device=a.device)
    saved = torch.empty_like(y) if keep else None
    if y.numel() == 0:
        return y, saved
    left, right = (
        planes(a, a.dtype, conjugate_left, left=True),
        planes(w, a.dtype, conjugate_right, left=False),
    )
    tile = tile_for(a.dtype, rows, 2 * units, outer * within, "gauss")
    with guard(a):
        fused_product._gauss_kernel[_grid(tile, outer * within, rows, 2 * units)](
            left, right, bias, threshold, residual, y, saved,
            rows, 2 * units, inner, within, *left.stride()[1:3], left.stride(0), *right.stride()[1:3],
            right.stride(0), PRECISION=precision(), **_options(tile),
        )  # fmt: skip
    return y, saved


def folded(a: Tensor, b: Tensor, *, sign: int, dtype: torch.dtype) -> Tensor:
    """``Σ_m a[m, n] conj(b[m, k])`` (sign 1) or ``Σ_m conj(a[m, n]) b[m, k]`` (sign −1).

    Args:
        a: ``[O, I, M, N, 2]``.
        b: ``[O, I, M, K, 2]`` in a's dtype.
        dtype: of the result, ``[O, I, N, K, 2]``.
    """
    outer, within, inner, units = a.shape[:4]
    out = torch.empty((outer, within, units, b.shape[3], 2), dtype=dtype, device=a.device)
    if out.numel() == 0:
        return out
    a, b = _interleaved(a), _interleaved(b)
    rows, columns = 2 * units, 2 * b.shape[3]
    tile = tile_for(a.dtype, rows, columns, outer * within)
    programs = outer * within * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    # A piece is at least as long as a tile is wide: its partial sums then cost less than what it reads.
    splits = max(1, min(PROGRAMS_WANTED // programs, inner // (8 * tile.inner)))
    piece = triton.cdiv(triton.cdiv(inner, splits), tile.inner) * tile.inner
    splits = max(1, triton.cdiv(inner, piece)) if inner else 1
    parts = out
    if splits > 1:
        parts = torch.empty((outer, within, splits, *out.shape[2:]), dtype=torch.float32, device=a.device)
    with guard(a):
        fused_product._folded_kernel[_grid(tile, outer * within * splits, rows, columns)](
            a, b, parts,
            rows, columns, inner, splits, piece, within, *a.stride()[:3], *b.stride()[:3],
            SIGN=sign, PRECISION=precision(), **_options(tile),
        )  # fmt: skip
    return parts.sum(2).to(dtype) if splits > 1 else out


def structured(w: Tensor, dtype: torch.dtype, conjugate: bool) -> Tensor:
    """``[O, I, 2 rows, 2 inner]``: every number as the 2 · 2 block that multiplies by it; strides 0 stay."""
    few = _not_repeated(w)
    outer, within, rows, inner = few.shape[:4]
    out = torch.empty((outer, within, 2 * rows, 2 * inner), dtype=dtype, device=w.device)
    _prepare(fused_operands._structure_kernel, few, out, CONJUGATE=conjugate)
    return out.expand(*w.shape[:2], -1, -1)


def planes(w: Tensor, dtype: torch.dtype, conjugate: bool, *, left: bool) -> Tensor:
    """``[3, O, I, rows, inner]``: the sums that Gauss's product multiplies."""
    few = _not_repeated(w)
    out = torch.empty((3, *few.shape[:4]), dtype=dtype, device=w.device)
    _prepare(fused_operands._planes_kernel, few, out, plane=out.stride(0), LEFT=left, CONJUGATE=conjugate)
    return out.expand(-1, *w.shape[:2], -1, -1)


def _prepare(kernel: triton.JITFunction, w: Tensor, out: Tensor, **arguments: int | bool) -> None:
    if w.stride(4) != 1:
        w = w.contiguous()
    outer, within, rows, inner = w.shape[:4]
    tiles = triton.cdiv(rows, _PREPARED["BLOCK_ROWS"]) * triton.cdiv(inner, _PREPARED["BLOCK_INNER"])
    if out.numel():
        with guard(w):
            kernel[(outer * within * tiles,)](
                w, out, rows, inner, within, *w.stride()[:4], **arguments, **_PREPARED
            )


def _grid(tile: tuple, batch: int, rows: int, columns: int) -> tuple[int]:
    return (batch * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)


def _options(tile: tuple) -> dict[str, int | bool]:
    return dict(
        BLOCK_ROWS=tile.rows, BLOCK_COLUMNS=tile.columns, BLOCK_INNER=tile.inner, GROUP=GROUP,
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


def _is_interleaved(a: Tensor) -> bool:
    return a.stride(4) == 1 and (a.stride(3) == 2 or a.shape[3] == 1)


def _not_repeated(a: Tensor) -> Tensor:
    # Batch dimensions that repeat one matrix, once.
    for dim in (0, 1):
        if a.stride(dim) == 0 and a.shape[dim] > 1:
            a = a.narrow(dim, 0, 1)
    return a


def _interleaved(a: Tensor) -> Tensor:
    # Rows of neighbouring floats; any other strides.
    if _is_interleaved(a):
        return a
    return _not_repeated(a).contiguous().expand(a.shape)


def as_batched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Matrices ``[…, R, C, 2]`` with their batches broadcast and brought to two dimensions, by views.

    Where no view does it (three dimensions repeated or strided in different ways), one operand is copied.
    """
    shape = torch.broadcast_shapes(a.shape[:-3], b.shape[:-3])
    a, b = a.expand(*shape, *a.shape[-3:]), b.expand(*shape, *b.shape[-3:])
    count = len(shape)
    while count > 2 and (merged := _merge(a, b, count)) is not None:
        a, b = merged
        count -= 1
    if count > 2:
        a, b = a.flatten(0, count - 1).unsqueeze(0), b.flatten(0, count - 1).unsqueeze(0)
    for _ in range(2 - count):
        a, b = a.unsqueeze(0), b.unsqueeze(0)
    return a, b, shape


def _merge(a: Tensor, b: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    # Two neighbouring batch dimensions as one, where strides allow it.
    for dim in range(count - 1):
        sizes = a.shape[dim : dim + 2]
        if 1 in sizes or all(t.stride(dim) == t.stride(dim + 1) * sizes[1] for t in (a, b)):
            return a.flatten(dim, dim + 1), b.flatten(dim, dim + 1)
    return None
