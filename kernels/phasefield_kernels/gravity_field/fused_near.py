"""The near tiles of gravity_field: those in which products would cancel, computed by differences instead.

Each of the three kernels that multiply notes the tiles it left out. This one walks through the same tiles,
computes those noted, one coordinate of every pair at a time, and adds to what is there. Where no pair is
near, it reads the notes and ends.
"""

import triton
import triton.language as tl

from .fused_pairs import points_in_reach, pulls, rows, sources_in_reach, store_rows


@triton.jit
def _column(at, d, inside):
    # Coordinate d of some rows.
    return tl.load(at + d, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _near_kernel(
    grad_ptr, own_ptr, mass_ptr, other_ptr, near_ptr, out_ptr, mass_out_ptr,
    own_count, other_count, width, before, window,
    grad_batch, grad_row, own_batch, own_row, mass_batch, mass_row, other_batch, other_row,
    strength, softening_squared, CAUSAL: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_OWN: tl.constexpr, BLOCK_OTHER: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    # Owns points (POINTS) or sources; d is other − own, and G belongs to the points, if there is one:
    #   points, no G    F_i  += g Σ_j m_j w d
    #   points          dx_i += g Σ_j m_j (c d − w G_i),        a = G_i·d,    c = 3 a w / ρ
    #   sources         ds_j += g m_j Σ_i (c d + w G_i),        a = −G_i·d,   dm_j += g Σ_i w a
    tiles = tl.cdiv(own_count, BLOCK_OWN)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    first = tile * BLOCK_OWN
    own = first + tl.arange(0, BLOCK_OWN)
    near_ptr += (batch * tiles + tile) * tl.cdiv(other_count, BLOCK_OTHER)
    own_at = own_ptr + batch * own_batch + own.to(tl.int64) * own_row
    if POINTS:
        low, high = sources_in_reach(first, BLOCK_OWN, before, other_count, window, CAUSAL)
        sign = 1.0
    else:
        low, high = points_in_reach(first, BLOCK_OWN, before, other_count, window, CAUSAL)
        sign = -1.0
    column = tl.arange(0, BLOCK_WIDTH)
    total = tl.zeros((BLOCK_OWN, BLOCK_WIDTH), tl.float32)
    work = tl.zeros((BLOCK_OWN,), tl.float32)
    found = 0
    for start in range(low, high, BLOCK_OTHER):
        if tl.load(near_ptr + (start - low) // BLOCK_OTHER) != 0:
            found = 1
            other = start + tl.arange(0, BLOCK_OTHER)
            other_at = other_ptr + batch * other_batch + other.to(tl.int64) * other_row
            if POINTS:
                of_grad = batch * grad_batch + own.to(tl.int64) * grad_row
                pair = pulls(before + own[:, None], other[None, :], window, CAUSAL)
            else:
                of_grad = batch * grad_batch + other.to(tl.int64) * grad_row
                pair = pulls(before + other[None, :], own[:, None], window, CAUSAL)
            pair = pair & (own < own_count)[:, None] & (other < other_count)[None, :]
            rho = tl.full((BLOCK_OWN, BLOCK_OTHER), 0.0, tl.float32) + softening_squared
            along = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
            for d in tl.range(0, width, num_stages=1):
                difference = _column(other_at, d, other < other_count)[None, :]
                difference -= _column(own_at, d, own < own_count)[:, None]
                rho += difference * difference
                if grad_ptr is not None:
                    if POINTS:
                        along += difference * _column(grad_ptr + of_grad, d, own < own_count)[:, None]
                    else:
                        along += difference * _column(grad_ptr + of_grad, d, other < other_count)[None, :]
            root = tl.rsqrt(rho)
            weight = tl.where(pair, root * root * root, 0.0)
            if mass_ptr is not None and POINTS:
                at = batch * mass_batch + other.to(tl.int64) * mass_row
                mass = tl.load(mass_ptr + at, mask=other < other_count, other=0.0)
                weight *= mass.to(tl.float32)[None, :]
            bend = weight
            if grad_ptr is not None:
                bend = sign * along * weight
                work += tl.sum(bend, 1)
                bend *= 3.0 * root * root
            for d in tl.range(0, width, num_stages=1):
                difference = _column(other_at, d, other < other_count)[None, :]
                difference -= _column(own_at, d, own < own_count)[:, None]
                part = bend * difference
                if grad_ptr is not None:
                    if POINTS:
                        part -= weight * _column(grad_ptr + of_grad, d, own < own_count)[:, None]
                    else:
                        part += weight * _column(grad_ptr + of_grad, d, other < other_count)[None, :]
                total += tl.where((column == d)[None, :], tl.sum(part, 1)[:, None], 0.0)
    if found != 0:
        if mass_out_ptr is not None:
            at = mass_out_ptr + batch * own_count + own
            tl.store(at, tl.load(at, mask=own < own_count, other=0.0) + strength * work, mask=own < own_count)
        if out_ptr is not None:
            if mass_ptr is not None and not POINTS:
                at = batch * mass_batch + own.to(tl.int64) * mass_row
                total *= tl.load(mass_ptr + at, mask=own < own_count, other=0.0).to(tl.float32)[:, None]
            out_ptr += batch * own_count * width
            there = rows(out_ptr, own, own_count, width, width, BLOCK_WIDTH).to(tl.float32)
            store_rows(out_ptr, there + strength * total, own, own_count, width, BLOCK_WIDTH)
