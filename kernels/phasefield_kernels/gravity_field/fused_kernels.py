"""The kernels of gravity_field: attention's tiles without its softmax.

A weight ``ρ^{-3/2}`` is bounded by ``ε^{-3}``, so nothing has to be rescaled on the way, and two sums, of
weighed vectors and of weights, are all that a program carries. The mathematics of the backward is in
blocked.py. Tiles that hold near pairs are noted and left to :mod:`.fused_near`.

Own rows are loaded again for the last line: kept, they would take registers all the while.
"""

import triton
import triton.language as tl

from .fused_pairs import (
    points_in_reach,
    products,
    pulls,
    rounded,
    rows,
    sources_in_reach,
    store_rows,
    weighed_sum,
    weights_of_product,
)


@triton.jit
def _prepare_kernel(
    x_ptr, grad_ptr, norm_ptr, along_ptr, length, width, x_batch, x_row, grad_batch, grad_row,
    BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    # |x|² of a tile of rows, and G·x, in float32.
    tiles = tl.cdiv(length, BLOCK_ROWS)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    x = rows(x_ptr + batch * x_batch, row, length, width, x_row, BLOCK_WIDTH).to(tl.float32)
    tl.store(norm_ptr + batch * length + row, tl.sum(x * x, 1), mask=row < length)
    if grad_ptr is not None:
        grad = rows(grad_ptr + batch * grad_batch, row, length, width, grad_row, BLOCK_WIDTH)
        tl.store(along_ptr + batch * length + row, tl.sum(x * grad.to(tl.float32), 1), mask=row < length)


@triton.jit
def _field_kernel(
    x_ptr, mass_ptr, source_ptr, norm_ptr, near_ptr, force_ptr,
    length, count, width, before, window, x_batch, x_row, mass_batch, mass_row, source_batch, source_row,
    strength, softening_squared,
    CAUSAL: tl.constexpr, NEAR: tl.constexpr, HALF_PRECISION: tl.constexpr, BLOCK_POINTS: tl.constexpr,
    BLOCK_SOURCES: tl.constexpr, BLOCK_WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # Owns points, meets sources. The last points of a causal sequence have most to do, and begin.
    #   F_i = g (Σ_j w_ij m_j s_j − x_i Σ_j w_ij m_j)
    tiles = tl.cdiv(length, BLOCK_POINTS)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tiles - 1 - tl.program_id(0) % tiles
    first = tile * BLOCK_POINTS
    i = first + tl.arange(0, BLOCK_POINTS)
    near_ptr += (batch * tiles + tile) * tl.cdiv(count, BLOCK_SOURCES)
    x_ptr += batch * x_batch
    source_ptr += batch * source_batch
    x = rows(x_ptr, i, length, width, x_row, BLOCK_WIDTH)
    norm = tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    total = tl.zeros((BLOCK_POINTS, BLOCK_WIDTH), tl.float32)
    weights = tl.zeros((BLOCK_POINTS,), tl.float32)
    low, high = sources_in_reach(first, BLOCK_POINTS, before, count, window, CAUSAL)
    for start in range(low, high, BLOCK_SOURCES):
        j = start + tl.arange(0, BLOCK_SOURCES)
        s = rows(source_ptr, j, count, width, source_row, BLOCK_WIDTH)
        source_norm = tl.load(norm_ptr + batch * count + j, mask=j < count, other=0.0)
        if CHUNK < BLOCK_WIDTH:
            product, _ = products(
                x_ptr, None, i, length, x_row, 0, source_ptr, None, j, count, source_row, 0,
                width, BLOCK_POINTS, BLOCK_SOURCES, CHUNK,
            )  # fmt: skip
        else:
            product = tl.dot(x, tl.trans(s), input_precision="ieee")
        pair = pulls(before + i[:, None], j[None, :], window, CAUSAL)
        pair = pair & (i < length)[:, None] & (j < count)[None, :]
        _, weight = weights_of_product(
            product,
            norm,
            source_norm,
            pair,
            near_ptr + (start - low) // BLOCK_SOURCES,
            softening_squared,
            NEAR,
        )
        if mass_ptr is not None:
            at = batch * mass_batch + j.to(tl.int64) * mass_row
            weight *= tl.load(mass_ptr + at, mask=j < count, other=0.0).to(tl.float32)[None, :]
        weight = rounded(weight, s.dtype)
        total = weighed_sum(weight, s, total, HALF_PRECISION)
        weights += tl.sum(weight.to(tl.float32), 1)
    x = rows(x_ptr, i, length, width, x_row, BLOCK_WIDTH)
    force = strength * (total - x.to(tl.float32) * weights[:, None])
    store_rows(force_ptr + batch * length * width, force, i, length, width, BLOCK_WIDTH)


@triton.jit
def _points_kernel(
    grad_ptr, x_ptr, mass_ptr, source_ptr, norm_ptr, near_ptr, out_ptr,
    length, count, width, before, window,
    grad_batch, grad_row, x_batch, x_row, mass_batch, mass_row, source_batch, source_row,
    strength, softening_squared,
    CAUSAL: tl.constexpr, NEAR: tl.constexpr, HALF_PRECISION: tl.constexpr, BLOCK_POINTS: tl.constexpr,
    BLOCK_SOURCES: tl.constexpr, BLOCK_WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # The gradient to points: owns points, meets sources.
    #   dx_i = g (Σ_j c_ij m_j s_j − x_i Σ_j c_ij m_j − G_i Σ_j w_ij m_j)
    tiles = tl.cdiv(length, BLOCK_POINTS)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tiles - 1 - tl.program_id(0) % tiles
    first = tile * BLOCK_POINTS
    i = first + tl.arange(0, BLOCK_POINTS)
    near_ptr += (batch * tiles + tile) * tl.cdiv(count, BLOCK_SOURCES)
    x_ptr += batch * x_batch
    grad_ptr += batch * grad_batch
    source_ptr += batch * source_batch
    x = rows(x_ptr, i, length, width, x_row, BLOCK_WIDTH)
    grad = rows(grad_ptr, i, length, width, grad_row, BLOCK_WIDTH)
    norm = tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    grad_x = tl.sum(x.to(tl.float32) * grad.to(tl.float32), 1)
    total = tl.zeros((BLOCK_POINTS, BLOCK_WIDTH), tl.float32)
    weights = tl.zeros((BLOCK_POINTS,), tl.float32)
    bends = tl.zeros((BLOCK_POINTS,), tl.float32)
    low, high = sources_in_reach(first, BLOCK_POINTS, before, count, window, CAUSAL)
    for start in range(low, high, BLOCK_SOURCES):
        j = start + tl.arange(0, BLOCK_SOURCES)
        s = rows(source_ptr, j, count, width, source_row, BLOCK_WIDTH)
        source_norm = tl.load(norm_ptr + batch * count + j, mask=j < count, other=0.0)
        if CHUNK < BLOCK_WIDTH:
            product, along = products(
                x_ptr, grad_ptr, i, length, x_row, grad_row, source_ptr, None, j, count, source_row, 0,
                width, BLOCK_POINTS, BLOCK_SOURCES, CHUNK,
            )  # fmt: skip
        else:
            product = tl.dot(x, tl.trans(s), input_precision="ieee")
            along = tl.dot(grad, tl.trans(s), input_precision="ieee")
        along -= grad_x[:, None]
        pair = pulls(before + i[:, None], j[None, :], window, CAUSAL)
        pair = pair & (i < length)[:, None] & (j < count)[None, :]
        root, weight = weights_of_product(
            product,
            norm,
            source_norm,
            pair,
            near_ptr + (start - low) // BLOCK_SOURCES,
            softening_squared,
            NEAR,
        )
        if mass_ptr is not None:
            at = batch * mass_batch + j.to(tl.int64) * mass_row
            weight *= tl.load(mass_ptr + at, mask=j < count, other=0.0).to(tl.float32)[None, :]
        weights += tl.sum(weight, 1)
        bend = rounded(3.0 * along * weight * root * root, s.dtype)
        total = weighed_sum(bend, s, total, HALF_PRECISION)
        bends += tl.sum(bend.to(tl.float32), 1)
    x = rows(x_ptr, i, length, width, x_row, BLOCK_WIDTH)
    grad = rows(grad_ptr, i, length, width, grad_row, BLOCK_WIDTH)
    total -= x.to(tl.float32) * bends[:, None] + grad.to(tl.float32) * weights[:, None]
    store_rows(out_ptr + batch * length * width, strength * total, i, length, width, BLOCK_WIDTH)


@triton.jit
def _sources_kernel(
    grad_ptr, x_ptr, mass_ptr, source_ptr, norm_ptr, along_ptr, near_ptr, add_ptr, out_ptr, mass_out_ptr,
    length, count, width, before, window,
    grad_batch, grad_row, x_batch, x_row, mass_batch, mass_row, source_batch, source_row,
    strength, softening_squared,
    CAUSAL: tl.constexpr, NEAR: tl.constexpr, HALF_PRECISION: tl.constexpr, BLOCK_POINTS: tl.constexpr,
    BLOCK_SOURCES: tl.constexpr, BLOCK_WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # The gradients to sources (plus what is given to add, where sources are the points) and masses: owns
    # sources, meets points with their |x|² and G·x.
    #   ds_j = g m_j (Σ_i w_ij G_i + Σ_i c_ij x_i − s_j Σ_i c_ij),     dm_j = g Σ_i w_ij a_ij
    tiles = tl.cdiv(count, BLOCK_SOURCES)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    first = tile * BLOCK_SOURCES
    j = first + tl.arange(0, BLOCK_SOURCES)
    near_ptr += (batch * tiles + tile) * tl.cdiv(length, BLOCK_POINTS)
    x_ptr += batch * x_batch
    grad_ptr += batch * grad_batch
    source_ptr += batch * source_batch
    s = rows(source_ptr, j, count, width, source_row, BLOCK_WIDTH)
    norm = tl.sum(s.to(tl.float32) * s.to(tl.float32), 1)
    total = tl.zeros((BLOCK_SOURCES, BLOCK_WIDTH), tl.float32)
    work = tl.zeros((BLOCK_SOURCES,), tl.float32)
    bends = tl.zeros((BLOCK_SOURCES,), tl.float32)
    low, high = points_in_reach(first, BLOCK_SOURCES, before, length, window, CAUSAL)
    for start in range(low, high, BLOCK_POINTS):
        i = start + tl.arange(0, BLOCK_POINTS)
        x = rows(x_ptr, i, length, width, x_row, BLOCK_WIDTH)
        grad = rows(grad_ptr, i, length, width, grad_row, BLOCK_WIDTH)
        point_norm = tl.load(norm_ptr + batch * length + i, mask=i < length, other=0.0)
        grad_x = tl.load(along_ptr + batch * length + i, mask=i < length, other=0.0)
        if CHUNK < BLOCK_WIDTH:
            product, along = products(
                source_ptr, None, j, count, source_row, 0, x_ptr, grad_ptr, i, length, x_row, grad_row,
                width, BLOCK_SOURCES, BLOCK_POINTS, CHUNK,
            )  # fmt: skip
        else:
            product = tl.dot(s, tl.trans(x), input_precision="ieee")
            along = tl.dot(s, tl.trans(grad), input_precision="ieee")
        along -= grad_x[None, :]
        pair = pulls(before + i[None, :], j[:, None], window, CAUSAL)
        pair = pair & (i < length)[None, :] & (j < count)[:, None]
        root, weight = weights_of_product(
            product, norm, point_norm, pair, near_ptr + (start - low) // BLOCK_POINTS, softening_squared, NEAR
        )
        bend = along * weight
        if mass_out_ptr is not None:
            work += tl.sum(bend, 1)
        if out_ptr is not None:
            total = weighed_sum(rounded(weight, s.dtype), grad, total, HALF_PRECISION)
            bend = rounded(3.0 * bend * root * root, s.dtype)
            total = weighed_sum(bend, x, total, HALF_PRECISION)
            bends += tl.sum(bend.to(tl.float32), 1)
    if mass_out_ptr is not None:
        tl.store(mass_out_ptr + batch * count + j, strength * work, mask=j < count)
    if out_ptr is not None:
        s = rows(source_ptr, j, count, width, source_row, BLOCK_WIDTH)
        total = strength * (total - s.to(tl.float32) * bends[:, None])
        if mass_ptr is not None:
            at = batch * mass_batch + j.to(tl.int64) * mass_row
            total *= tl.load(mass_ptr + at, mask=j < count, other=0.0).to(tl.float32)[:, None]
        if add_ptr is not None:
            total += rows(add_ptr + batch * count * width, j, count, width, width, BLOCK_WIDTH)
        store_rows(out_ptr + batch * count * width, total, j, count, width, BLOCK_WIDTH)
