"""selective_scan's forward kernel: states in registers, the time loop inside (rows: :mod:`..rows`)."""

import triton
import triton.language as tl

from ..fused_math import sigmoids
from ..rows import row_bounds
from .fused_numbers import (
    advance,
    factors,
    load_numbers,
    load_rates,
    load_raw,
    load_step_size,
    read,
    store_numbers,
    times,
    wide,
)


@triton.jit
def lanes_of_program(channels, blocks, BLOCK: tl.constexpr):
    """(group, lanes' channels among all, which of the lanes exist): a program's lanes share B and C."""
    group = (tl.program_id(1) // blocks).to(tl.int64)
    own = (tl.program_id(1) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return group, group * channels + own, own < channels


@triton.jit
def kept_state(place, length, begin, segment, width, SEGMENT: tl.constexpr):
    """Where the state is kept that enters a row's segment (not its first), in lanes from the start.

    Rows divide all sequences' time, laid end to end; one with n segments to keep has n whole ones in it.
    """
    return ((place * length + begin) // SEGMENT + segment - 1) * width


@triton.jit
def forward_kernel(
    x_ptr, dt_ptr, B_ptr, C_ptr, z_ptr, A_ptr, D_ptr, bias_ptr, start_ptr, offsets_ptr,
    y_ptr, final_ptr, kept_ptr, end_ptr, product_ptr,
    length, channels, blocks, chunks, chunk_length,
    x_batch, x_lane, dt_batch, dt_lane, z_batch, z_lane, B_batch, B_group, B_state, C_batch, C_group, C_state,
    width: tl.constexpr, states: tl.constexpr, x_time: tl.constexpr, dt_time: tl.constexpr,
    z_time: tl.constexpr, B_time: tl.constexpr, C_time: tl.constexpr,
    COMPLEX: tl.constexpr, SOFTPLUS: tl.constexpr, SEGMENT: tl.constexpr, STEPS: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row forward in time.

    Reads tokens, parameters and the row's start state; writes y, at a sequence's end the final state, and
    the state before every segment but the first, if it is to be kept. Or, as a chunk's first pass (without C
    and y), its own end state and the product of its factors.
    """
    parts: tl.constexpr = 2 if COMPLEX else 1
    group, column, lanes = lanes_of_program(channels, blocks, BLOCK)
    state = tl.arange(0, STATES).to(tl.int64)
    exists = state < states
    tile = exists[:, None] & lanes[None, :]
    in_tile = (column[None, :] * states + state[:, None]) * parts
    lane_numbers = width * states * parts
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    A_real, A_imaginary = load_rates(A_ptr + in_tile, tile, COMPLEX)
    h_real = tl.zeros((STATES, BLOCK), tl.float32)
    h_imaginary = h_real
    if start_ptr is not None:
        h_real, h_imaginary = load_numbers(start_ptr + row * lane_numbers + in_tile, tile, COMPLEX)
    bias = tl.zeros((BLOCK,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=lanes, other=0.0)
    if D_ptr is not None:
        skip = tl.load(D_ptr + column, mask=lanes, other=0.0)
    x_at = x_ptr + place * x_batch + begin * x_time
    dt_at = dt_ptr + place * dt_batch + begin * dt_time
    B_at = B_ptr + place * B_batch + begin * B_time + group * B_group
    if y_ptr is not None:
        C_at = C_ptr + place * C_batch + begin * C_time + group * C_group
        y_at = y_ptr + (place * length + begin) * width
        if z_ptr is not None:
            z_at = z_ptr + place * z_batch + begin * z_time
    if product_ptr is not None:
        passed = tl.zeros((BLOCK,), tl.float32)
        p_real = tl.full((STATES, BLOCK), 1.0, tl.float32)
        p_imaginary = tl.zeros((STATES, BLOCK), tl.float32)
    for segment in range(0, (end - begin + SEGMENT - 1) // SEGMENT):
        time = begin + segment * SEGMENT
        stop = tl.minimum(time + SEGMENT, end)
        if kept_ptr is not None:
            slot = kept_state(place, length, begin, segment, width, SEGMENT) * states * parts
            store_numbers(kept_ptr + slot + in_tile, h_real, h_imaginary, tile & (segment > 0), COMPLEX)
        for _ in range(0, stop - time, STEPS):
            xs = ()
            dts = ()
            zs = ()
            Bs = ()
            Cs = ()
            for s in tl.static_range(STEPS):
                inside = time + s < stop
                xs = xs + (tl.load(x_at + column * x_lane, mask=lanes & inside, other=0.0),)
                dts = dts + (tl.load(dt_at + column * dt_lane, mask=lanes & inside, other=0.0),)
                Bs = Bs + (load_raw(B_at + state * B_state, exists & inside, COMPLEX),)
                x_at += wide(x_time)
                dt_at += wide(dt_time)
                B_at += wide(B_time)
                if y_ptr is not None:
                    Cs = Cs + (load_raw(C_at + state * C_state, exists & inside, COMPLEX),)
                    C_at += wide(C_time)
                    if z_ptr is not None:
                        zs = zs + (tl.load(z_at + column * z_lane, mask=lanes & inside, other=0.0),)
                        z_at += wide(z_time)
            for s in tl.static_range(STEPS):
                inside = time + s < stop
                x = xs[s].to(tl.float32)
                delta, _slope = load_step_size(dts[s], bias, inside, SOFTPLUS)
                f_real, f_imaginary = factors(delta, A_real, A_imaginary, COMPLEX)
                driven = delta * x
                h_real, h_imaginary = advance(
                    h_real, h_imaginary, f_real, f_imaginary, Bs[s], driven, COMPLEX
                )
                if product_ptr is not None:
                    passed += delta
                    if COMPLEX:
                        p_real, p_imaginary = times(p_real, p_imaginary, f_real, f_imaginary, COMPLEX)
                if y_ptr is not None:
                    y = read(h_real, h_imaginary, Cs[s], COMPLEX)
                    if D_ptr is not None:
                        y += skip * x
                    if z_ptr is not None:
                        z = zs[s].to(tl.float32)
                        opened, _closed = sigmoids(z)
                        y *= z * opened
                    tl.store(y_at + column, y.to(y_ptr.dtype.element_ty), mask=lanes & inside)
                    y_at += wide(width)
            time += STEPS
    if end_ptr is not None:
        if not COMPLEX:
            # Real factors' product is that of the whole time passed; an angle would lose its last digits.
            p_real = tl.exp2(passed[None, :] * A_real)
        store_numbers(end_ptr + row * lane_numbers + in_tile, h_real, h_imaginary, tile, COMPLEX)
        store_numbers(product_ptr + row * lane_numbers + in_tile, p_real, p_imaginary, tile, COMPLEX)
    if final_ptr is not None:
        ends = row + 1 == (sequence + 1) * chunks
        store_numbers(
            final_ptr + sequence * lane_numbers + in_tile, h_real, h_imaginary, tile & ends, COMPLEX
        )
