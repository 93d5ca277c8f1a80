"""The kernels of hebbian_update_.

A program of the product owns one tile of the weight, or of one piece's part of the sum over rows. It reads
its columns of post and pre once, and of the weight only its own tile: so the update is in place, without a
copy, wherever it needs nothing of other tiles. What does (a sum cut into pieces, the subspace rule's second
product, a norm) is first summed in float32 beside the weight, and written by the second stage.
"""

import triton
import triton.language as tl


@triton.jit
def _rounded(value, index, seed, dtype: tl.constexpr, STOCHASTIC: tl.constexpr):
    # float32 in the weight's dtype; see rounding.py, which gives the same bits.
    if STOCHASTIC:
        random = tl.randint(seed, index).to(tl.uint32, bitcast=True)
        bits = value.to(tl.uint32, bitcast=True)
        if dtype == tl.bfloat16:
            result = ((bits + (random >> 16)) & 0xFFFF0000).to(tl.float32, bitcast=True)
        else:
            result = ((bits + (random >> 19)) & 0xFFFFE000).to(tl.float32, bitcast=True)
            share = (random >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
            steps = tl.floor(value * 16777216.0 + share) * 5.9604644775390625e-08
            result = tl.where(tl.abs(value) < 6.103515625e-05, steps, result)
        value = tl.where(tl.abs(value) < float("inf"), result, value)
    return value.to(dtype)


@triton.jit
def _assign(
    weight_ptr, value, row, column, units, inputs, weight_row, weight_column, seed, STOCHASTIC: tl.constexpr
):
    # Round a tile and store it in the weight; elements are numbered in row-major order.
    inside = (row < units)[:, None] & (column < inputs)[None, :]
    index = row[:, None].to(tl.int64) * inputs + column[None, :]
    at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
    value = _rounded(value, index, seed, weight_ptr.dtype.element_ty, STOCHASTIC)
    tl.store(weight_ptr + at, value, mask=inside)


@triton.jit
def _load_weight(weight_ptr, row, column, units, inputs, weight_row, weight_column):
    inside = (row < units)[:, None] & (column < inputs)[None, :]
    at = row[:, None].to(tl.int64) * weight_row + column[None, :].to(tl.int64) * weight_column
    return tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["seed"])
def _product_kernel(
    post_ptr, pre_ptr, weight_ptr, sums_ptr, squares_ptr,
    units, inputs, rows, piece, post_row, pre_row, weight_row, weight_column, decay, scale, seed,
    OJA: tl.constexpr, STOCHASTIC: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # P = Σ post[m, n] pre[m, k] over `piece` rows m, and for Oja's rule Σ post[m, n]². Then either the update
    #   W ← (decay − scale Σ post²) W + scale P
    # or, where there are sums, scale P into this piece's [units, inputs] of them and Σ post² into squares.
    # Tiles go in groups of GROUP tile rows, so that neighbouring programs share columns in the cache.
    tile_rows = tl.cdiv(units, BLOCK_ROWS)
    tile_columns = tl.cdiv(inputs, BLOCK_COLUMNS)
    tiles = tile_rows * tile_columns
    split = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    group = GROUP * tile_columns
    first = (tile // group) * GROUP
    height = tl.minimum(tile_rows - first, GROUP)
    row = (first + (tile % group) % height) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tile_column = (tile % group) // height
    column = tile_column * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    k = tl.arange(0, BLOCK_INNER)
    start = split.to(tl.int64) * piece
    count = tl.minimum(rows - split * piece, piece)
    post_at = post_ptr + start * post_row + row[:, None] + k[None, :].to(tl.int64) * post_row
    pre_at = pre_ptr + start * pre_row + column[None, :] + k[:, None].to(tl.int64) * pre_row
    step = tl.full((), BLOCK_INNER, tl.int64)
    in_rows = (row < units)[:, None]
    in_columns = (column < inputs)[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    if OJA:
        square = tl.zeros((BLOCK_ROWS, BLOCK_INNER), tl.float32)
    for done in range(0, count, BLOCK_INNER):
        a = tl.load(post_at, mask=in_rows & (k < count - done)[None, :], other=0.0)
        b = tl.load(pre_at, mask=in_columns & (k < count - done)[:, None], other=0.0)
        total = tl.dot(a, b.to(a.dtype), total, input_precision=PRECISION)
        if OJA:
            y = a.to(tl.float32)
            square += y * y
        post_at += step * post_row
        pre_at += step * pre_row
    if sums_ptr is None:
        old = _load_weight(weight_ptr, row, column, units, inputs, weight_row, weight_column)
        if OJA:
            value = (decay - scale * tl.sum(square, 1))[:, None] * old + scale * total
        else:
            value = decay * old + scale * total
        _assign(
            weight_ptr, value, row, column, units, inputs, weight_row, weight_column, seed, STOCHASTIC
        )  # fmt: skip
    else:
        at = (split.to(tl.int64) * units + row[:, None]) * inputs + column[None, :]
        tl.store(sums_ptr + at, scale * total, mask=in_rows & in_columns)
        if OJA:
            mine = (row < units) & (tile_column == 0)
            tl.store(squares_ptr + split.to(tl.int64) * units + row, tl.sum(square, 1), mask=mine)


@triton.jit(do_not_specialize=["seed"])
def _finish_kernel(
    weight_ptr, sums_ptr, squares_ptr, lengths_ptr,
    units, inputs, pieces, weight_row, weight_column, decay, scale, seed,
    STOCHASTIC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    # W ← (decay − scale Σ squares) W + Σ sums, over pieces in their order. Where lengths are wanted, the new
    # value goes unrounded to the first piece's place, and the tile's sums of squares by row to lengths.
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < units)[:, None] & (column < inputs)[None, :]
    at = row[:, None].to(tl.int64) * inputs + column[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    square = tl.zeros((BLOCK_ROWS,), tl.float32)
    sums_at, step = sums_ptr + at, tl.full((), 1, tl.int64) * units * inputs
    squares_at = row
    for _ in range(pieces):
        total += tl.load(sums_at, mask=inside, other=0.0)
        sums_at += step
        if squares_ptr is not None:
            square += tl.load(squares_ptr + squares_at, mask=row < units, other=0.0)
            squares_at += units
    old = _load_weight(weight_ptr, row, column, units, inputs, weight_row, weight_column)
    value = (decay - scale * square)[:, None] * old + total
    if lengths_ptr is None:
        _assign(
            weight_ptr, value, row, column, units, inputs, weight_row, weight_column, seed, STOCHASTIC
        )  # fmt: skip
    else:
        tl.store(sums_ptr + at, value, mask=inside)
        tl.store(lengths_ptr + tl.program_id(1) * units + row, tl.sum(value * value, 1), mask=row < units)


@triton.jit(do_not_specialize=["seed"])
def _bound_kernel(
    weight_ptr, value_ptr, factor_ptr, units, inputs, weight_row, weight_column, factor_row, seed,
    STOCHASTIC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    # W ← value · factor, rounded; factors are factor_row apart, 0 for one that all rows share.
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < units)[:, None] & (column < inputs)[None, :]
    value = tl.load(value_ptr + row[:, None].to(tl.int64) * inputs + column[None, :], mask=inside, other=0.0)
    factor = tl.load(factor_ptr + row * factor_row, mask=row < units, other=0.0)
    _assign(
        weight_ptr, value * factor[:, None], row, column, units, inputs, weight_row, weight_column, seed,
        STOCHASTIC,
    )  # fmt: skip
