"""What complex products in Triton read besides interleaved rows: operands prepared once a call.

Both kernels read a complex matrix ``[rows, inner]`` through any strides, each number once, as it is or
conjugated, and write it row by row in the dtype of the product.
"""

import triton
import triton.language as tl


@triton.jit
def _load_tile(
    w_ptr, rows, inner, within, w_outer, w_within, w_row, w_inner,
    CONJUGATE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    # (real, imaginary, row, k, inside, matrix) of this program's tile, in float32.
    tiles_inner = tl.cdiv(inner, BLOCK_INNER)
    tiles = tl.cdiv(rows, BLOCK_ROWS) * tiles_inner
    program = tl.program_id(0)
    matrix = program // tiles
    tile = program % tiles
    row = (tile // tiles_inner) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    k = (tile % tiles_inner) * BLOCK_INNER + tl.arange(0, BLOCK_INNER)
    inside = (row < rows)[:, None] & (k < inner)[None, :]
    at = (matrix // within).to(tl.int64) * w_outer + (matrix % within).to(tl.int64) * w_within
    at = at + row[:, None].to(tl.int64) * w_row + k[None, :].to(tl.int64) * w_inner
    part = tl.arange(0, 2)
    pairs = tl.load(w_ptr + at[:, :, None] + part[None, None, :], mask=inside[:, :, None], other=0.0)
    real, imaginary = tl.split(pairs.to(tl.float32))
    if CONJUGATE:
        imaginary = -imaginary
    return real, imaginary, row, k, inside, matrix.to(tl.int64)


@triton.jit
def _structure_kernel(
    w_ptr, out_ptr, rows, inner, within, w_outer, w_within, w_row, w_inner,
    CONJUGATE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    # w = r + i s becomes the block (r −s; s r): real [2 rows, 2 inner].
    real, imaginary, row, k, inside, matrix = _load_tile(
        w_ptr, rows, inner, within, w_outer, w_within, w_row, w_inner, CONJUGATE, BLOCK_ROWS, BLOCK_INNER
    )
    part = tl.arange(0, 2)
    at = (matrix * rows + row[:, None]) * (4 * inner) + 2 * k[None, :]
    at = out_ptr + at[:, :, None] + part[None, None, :]
    to_real = tl.join(real, -imaginary).to(out_ptr.dtype.element_ty)
    to_imaginary = tl.join(imaginary, real).to(out_ptr.dtype.element_ty)
    tl.store(at, to_real, mask=inside[:, :, None])
    tl.store(at + 2 * inner, to_imaginary, mask=inside[:, :, None])


@triton.jit
def _planes_kernel(
    w_ptr, out_ptr, rows, inner, within, w_outer, w_within, w_row, w_inner, plane,
    LEFT: tl.constexpr, CONJUGATE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    # The three planes of Gauss's product (see fused_product): added in float32, rounded once.
    real, imaginary, row, k, inside, matrix = _load_tile(
        w_ptr, rows, inner, within, w_outer, w_within, w_row, w_inner, CONJUGATE, BLOCK_ROWS, BLOCK_INNER
    )
    at = out_ptr + (matrix * rows + row[:, None]) * inner + k[None, :]
    element = out_ptr.dtype.element_ty
    if LEFT:
        tl.store(at, (real + imaginary).to(element), mask=inside)
        tl.store(at + plane, real.to(element), mask=inside)
        tl.store(at + 2 * plane, imaginary.to(element), mask=inside)
    else:
        tl.store(at, real.to(element), mask=inside)
        tl.store(at + plane, (imaginary - real).to(element), mask=inside)
        tl.store(at + 2 * plane, (real + imaginary).to(element), mask=inside)
