"""What gravity_field's kernels do to a tile of pairs: which there are, their weights, and the near ones.

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
def rho_of_product(product, own_norm, other_norm, softening_squared, NEAR: tl.constexpr):
    """``ρ = |s − x|² + ε²`` of a tile from its products x·s, never below ε²; and whether a pair is near."""
    size = own_norm[:, None] + other_norm[None, :]
    rho = tl.maximum(size - 2.0 * product, 0.0) + softening_squared
    return rho, rho < NEAR * size


@triton.jit
def any_of(mask):
    """Whether any element of a tile is true: one number for the whole program, to branch on."""
    return tl.max(tl.max(mask.to(tl.int32), 1), 0) != 0


@triton.jit
def differences(
    own_at, in_rows, other_at, in_columns, own_grad_at, other_grad_at, width, softening_squared,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """ρ of a tile and ``G · (other − own)``, from differences; G belongs to either side or to none."""
    rho = tl.full((BLOCK_ROWS, BLOCK_COLUMNS), 0.0, tl.float32) + softening_squared
    along = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for d in tl.range(0, width, num_stages=1):
        own = tl.load(own_at + d, mask=in_rows, other=0.0).to(tl.float32)
        other = tl.load(other_at + d, mask=in_columns, other=0.0).to(tl.float32)
        difference = other[None, :] - own[:, None]
        rho += difference * difference
        if own_grad_at is not None:
            grad = tl.load(own_grad_at + d, mask=in_rows, other=0.0).to(tl.float32)
            along += grad[:, None] * difference
        if other_grad_at is not None:
            grad = tl.load(other_grad_at + d, mask=in_columns, other=0.0).to(tl.float32)
            along += grad[None, :] * difference
    return rho, along


@triton.jit
def add_weighed_differences(
    total, weight, own_at, in_rows, other_at, in_columns, width, BLOCK_WIDTH: tl.constexpr
):
    """``total[r, d] + Σ_c weight[r, c] (other[c, d] − own[r, d])``."""
    column = tl.arange(0, BLOCK_WIDTH)
    for d in tl.range(0, width, num_stages=1):
        own = tl.load(own_at + d, mask=in_rows, other=0.0).to(tl.float32)
        other = tl.load(other_at + d, mask=in_columns, other=0.0).to(tl.float32)
        part = tl.sum(weight * (other[None, :] - own[:, None]), 1)
        total += tl.where((column == d)[None, :], part[:, None], 0.0)
    return total


@triton.jit
def rounded(weight, dtype: tl.constexpr):
    """A weight as :func:`weighed_sum` multiplies it, so that every sum is one of the same weights.

    bfloat16 keeps the range of float32. float16 does not, but its numbers are exact in tf32: so there weights
    are rounded to tf32 (ties away from zero) and stay float32.
    """
    if dtype == tl.float16:
        bits = weight.to(tl.uint32, bitcast=True)
        return ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return weight.to(dtype)


@triton.jit
def weighed_sum(weight, values, total, PRECISION: tl.constexpr, HALF_PRECISION: tl.constexpr):
    """``total + weight · values`` of a rounded weight."""
    if values.dtype == tl.float16:
        return tl.dot(weight, values.to(tl.float32), total, input_precision=HALF_PRECISION)
    return tl.dot(weight, values, total, input_precision=PRECISION)
