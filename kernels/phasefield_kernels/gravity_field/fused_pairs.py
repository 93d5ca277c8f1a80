"""What gravity_field's kernels ask of a tile of pairs: which there are, what their weights are.

A program *owns* a tile of rows, points or sources, and *meets* the others a tile of columns at a time.
"""

import triton
import triton.language as tl


@triton.jit
def pulls(point, source, window, CAUSAL: tl.constexpr):
    """Whether a source pulls a point; places are counted from the first source, and broadcast."""
    ago = point - source
    if CAUSAL:
        result = ago > 0
    else:
        result = ago != 0
    if window is not None:
        result = result & (tl.abs(ago) <= window)
    return result


@triton.jit
def sources_in_reach(first, points, before, count, window, CAUSAL: tl.constexpr):
    """(first, end) of the sources that any of ``points`` points from ``first`` on may be pulled by."""
    low = 0
    high = count
    if CAUSAL:
        high = tl.minimum(high, first + points - 1 + before)
    if window is not None:
        low = tl.maximum(low, first + before - window)
        if not CAUSAL:
            high = tl.minimum(high, first + points + window)
    return low, high


@triton.jit
def points_in_reach(first, sources, before, length, window, CAUSAL: tl.constexpr):
    """(first, end) of the points that any of ``sources`` sources from ``first`` on may pull."""
    low = 0
    high = length
    if CAUSAL:
        low = tl.maximum(low, first + 1 - before)
    if window is not None:
        high = tl.minimum(high, first + sources + window - before)
        if not CAUSAL:
            low = tl.maximum(low, first - window)
    return low, high


@triton.jit
def _chunk(x_ptr, row, count, width, stride, start, CHUNK: tl.constexpr):
    d = start + tl.arange(0, CHUNK)
    inside = (row < count)[:, None] & (d < width)[None, :]
    return tl.load(x_ptr + row[:, None].to(tl.int64) * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def products(
    own_ptr, own_grad_ptr, own, own_count, own_row, own_grad_row,
    other_ptr, other_grad_ptr, other, other_count, other_row, other_grad_row,
    width, BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """``x·s`` of a tile and ``G·s``, or ``s·G``, for the side that has a G; CHUNK coordinates at a time.

    Of rows as wide as a tile, in float32, a product at once would take more registers than there are.
    """
    product = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
    along = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
    for start in range(0, width, CHUNK):
        left = _chunk(own_ptr, own, own_count, width, own_row, start, CHUNK)
        right = tl.trans(_chunk(other_ptr, other, other_count, width, other_row, start, CHUNK))
        product = tl.dot(left, right, product, input_precision="ieee")
        if own_grad_ptr is not None:
            left = _chunk(own_grad_ptr, own, own_count, width, own_grad_row, start, CHUNK)
            along = tl.dot(left, right, along, input_precision="ieee")
        if other_grad_ptr is not None:
            right = _chunk(other_grad_ptr, other, other_count, width, other_grad_row, start, CHUNK)
            along = tl.dot(left, tl.trans(right), along, input_precision="ieee")
    return product, along


@triton.jit
def weights_of_product(product, own_norm, other_norm, pair, near_ptr, softening_squared, NEAR: tl.constexpr):
    """``(ρ^{-1/2}, ρ^{-3/2})`` of a tile from its products x·s, ρ never below ε²; 0 where there is no pair.

    A tile that holds a near pair gives weights of 0 and is noted, for the near kernel to compute.
    """
    size = own_norm[:, None] + other_norm[None, :]
    rho = tl.maximum(size - 2.0 * product, 0.0) + softening_squared
    near = tl.max(tl.max((pair & (rho < NEAR * size)).to(tl.int32), 1), 0)
    tl.store(near_ptr, near.to(tl.int8))
    root = tl.rsqrt(rho)
    return root, tl.where(pair & (near == 0), root * root * root, 0.0)


@triton.jit
def rounded(weight, dtype: tl.constexpr):
    """A weight as :func:`weighed_sum` multiplies it, so that every sum is one of the same weights.

    bfloat16 keeps the range of float32. float16 does not, but its numbers are exact in tf32: so there weights
    are rounded to tf32 (ties away from zero) and stay float32.
    """
    if dtype == tl.float16:
        bits = weight.to(tl.uint32, bitcast=True)
        result = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    else:
        result = weight.to(dtype)
    return result


@triton.jit
def weighed_sum(weight, values, total, HALF_PRECISION: tl.constexpr):
    """``total + weight · values`` of a rounded weight."""
    if values.dtype == tl.float16:
        total = tl.dot(weight, values.to(tl.float32), total, input_precision=HALF_PRECISION)
    else:
        total = tl.dot(weight, values, total, input_precision="ieee")
    return total


@triton.jit
def rows(x_ptr, row, count, width, stride, BLOCK_WIDTH: tl.constexpr):
    """A tile of rows, zeros beyond their count and width."""
    d = tl.arange(0, BLOCK_WIDTH)
    inside = (row < count)[:, None] & (d < width)[None, :]
    return tl.load(x_ptr + row[:, None].to(tl.int64) * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(out_ptr, value, row, count, width, BLOCK_WIDTH: tl.constexpr):
    """Store a tile of rows, which are contiguous."""
    d = tl.arange(0, BLOCK_WIDTH)
    inside = (row < count)[:, None] & (d < width)[None, :]
    at = row[:, None].to(tl.int64) * width + d[None, :]
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=inside)
