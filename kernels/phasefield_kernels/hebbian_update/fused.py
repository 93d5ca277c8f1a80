"""hebbian_update_ in Triton: one product with the update in its epilogue, and a second stage where it must.

Launches: one, in place, for Hebb's rule and Oja's where the weight's tiles keep the device busy. A sum over
rows that is cut into pieces takes a second launch, which adds the pieces in their order. The subspace rule
takes ``⟨y yᵀ⟩`` (summed by torch) and its product with the weight, two launches more. A norm bound writes
what the second stage finds beside the weight, and a last launch scales and rounds it.
"""

import torch
import triton
from torch import Tensor

from ..complex_product.configs import GROUP, precision
from ..device import guard
from . import fused_kernels
from .configs import FINISH, tile_and_splits


def update_(
    weight: Tensor,
    post: Tensor,
    pre: Tensor,
    rate: float,
    decay: float,
    rule: str,
    max_norm: float | None,
    norm: str,
    seed: int | None,
) -> None:
    """``W ← λ W + η ΔW``, bounded and rounded; shapes and rules as in the public function."""
    (units, inputs), rows = weight.shape, post.shape[0]
    post, pre = _by_row(post), _by_row(pre)
    scale = rate / max(1, rows)
    splits = tile_and_splits(post.dtype, units, inputs, rows)[1]
    subspace = rule == "oja_subspace"
    with guard(weight):
        if splits == 1 and max_norm is None and not subspace:
            _product(post, pre, scale, weight=weight, decay=decay, oja=rule == "oja", seed=seed)
            return
        more = tile_and_splits(torch.float32, units, inputs, units)[1] if subspace else 0
        new = dict(dtype=torch.float32, device=weight.device)
        sums = torch.empty((splits + more, units, inputs), **new)
        squares = torch.empty((splits, units), **new) if rule == "oja" else None
        _product(post, pre, scale, sums=sums[:splits], squares=squares)
        if subspace:
            pieces = tile_and_splits(post.dtype, units, units, rows)[1]
            gram = torch.empty((pieces, units, units), **new)
            _product(post, post, scale, sums=gram)
            # A symmetric matrix: Σ_m gram[m, n] W[m, k] is its product with the weight.
            _product(gram.sum(0), _by_row(weight), -1.0, sums=sums[splits:])
        _finish(weight, sums, squares, decay, scale, max_norm, norm, seed)


def _product(
    post: Tensor,
    pre: Tensor,
    scale: float,
    *,
    weight: Tensor | None = None,
    sums: Tensor | None = None,
    squares: Tensor | None = None,
    decay: float = 0.0,
    oja: bool = False,
    seed: int | None = None,
) -> None:
    # scale Σ post ⊗ pre into the weight, or by as many pieces as there are sums into these.
    (rows, units), inputs = post.shape, pre.shape[1]
    tile, _ = tile_and_splits(post.dtype, units, inputs, rows, stochastic=seed is not None)
    splits = 1 if sums is None else sums.shape[0]
    piece = triton.cdiv(triton.cdiv(rows, splits), tile.inner) * tile.inner
    programs = splits * triton.cdiv(units, tile.rows) * triton.cdiv(inputs, tile.columns)
    fused_kernels._product_kernel[(programs,)](
        post, pre, weight, sums, squares,
        units, inputs, rows, piece, post.stride(0), pre.stride(0), *_strides(weight), decay, scale, seed or 0,
        OJA=oja or squares is not None, STOCHASTIC=seed is not None, PRECISION=precision(),
        BLOCK_ROWS=tile.rows, BLOCK_COLUMNS=tile.columns, BLOCK_INNER=tile.inner, GROUP=GROUP,
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


def _finish(
    weight: Tensor,
    sums: Tensor,
    squares: Tensor | None,
    decay: float,
    scale: float,
    max_norm: float | None,
    norm: str,
    seed: int | None,
) -> None:
    units, inputs = weight.shape
    block_rows, block_columns = FINISH
    grid = (triton.cdiv(units, block_rows), triton.cdiv(inputs, block_columns))
    layout = dict(BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns, num_warps=4, enable_fp_fusion=True)
    layout["STOCHASTIC"] = seed is not None
    lengths = None
    if max_norm is not None:
        lengths = torch.empty((grid[1], units), dtype=torch.float32, device=weight.device)
    fused_kernels._finish_kernel[grid](
        weight, sums, squares, lengths,
        units, inputs, sums.shape[0], *weight.stride(), decay, scale, seed or 0, **layout,
    )  # fmt: skip
    if lengths is None:
        return
    squared = lengths.sum(0) if norm == "row" else lengths.sum().unsqueeze(0)
    factor = (max_norm * squared.rsqrt()).clamp_max_(1)
    fused_kernels._bound_kernel[grid](
        weight, sums, factor, units, inputs, *weight.stride(), int(norm == "row"), seed or 0, **layout
    )


def _by_row(x: Tensor) -> Tensor:
    # Rows of neighbouring numbers.
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _strides(weight: Tensor | None) -> tuple[int, int]:
    return (0, 0) if weight is None else weight.stride()
