"""selective_scan's backward kernels: a segment's states are computed again from the one that was kept.

With a_t = exp(Δ_t A), s = 1 (2 for complex A), ȳ_t = dL/d(C_t h_t + D x_t) and G_t the whole gradient of
h_t, backward in time (conjugates where there are complex numbers):
  ȳ_t = silu(z_t) dL/dy_t,                G_t = s conj(C_t) ȳ_t + carry,     carry ← conj(a_t) G_t
  dC_t = s Σ_d ȳ_t conj(h_t),             dB_t = Σ_d Δ_t x_t G_t,            w_t = Re Σ_n conj(B_t) G_t
  Q_t = conj(a_t h_{t-1}) G_t = conj(h_{t-1}) carry,                         dA = Σ_t Δ_t Q_t
  dΔ_t = Re Σ_n conj(A) Q_t + w_t x_t,    dx_t = w_t Δ_t + D ȳ_t,            dD = Σ_t ȳ_t x_t
  dz_t = dL/dy_t (C_t h_t + D x_t) silu'(z_t),     ddt_t = dΔ_t softplus'(dt_t + bias),     dbias = Σ_t ddt_t
The carry into a sequence's last step is dL/d(final_state); out of its first, d(initial_state).
"""

import triton
import triton.language as tl

from ..fused_math import sigmoids
from ..rows import row_bounds
from .fused_forward import kept_state, lanes_of_program
from .fused_numbers import (
    LN_2,
    add_read_gradient,
    advance,
    conjugate_times,
    factors,
    load_numbers,
    load_rates,
    load_raw,
    load_step_size,
    read,
    store_numbers,
    wide,
)


@triton.jit
def backward_ends_kernel(
    dt_ptr, C_ptr, z_ptr, grad_ptr, A_ptr, bias_ptr, grad_final_ptr, offsets_ptr, end_ptr, product_ptr,
    length, channels, blocks, chunks, chunk_length,
    dt_batch, dt_lane, z_batch, z_lane, grad_batch, grad_lane, C_batch, C_group, C_state,
    width: tl.constexpr, states: tl.constexpr, dt_time: tl.constexpr, z_time: tl.constexpr,
    grad_time: tl.constexpr, C_time: tl.constexpr,
    COMPLEX: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk's first pass: the carry out of it with none coming in, and the factor of one that comes in."""
    parts: tl.constexpr = 2 if COMPLEX else 1
    group, column, lanes = lanes_of_program(channels, blocks, BLOCK)
    state = tl.arange(0, STATES).to(tl.int64)
    exists = state < states
    tile = exists[:, None] & lanes[None, :]
    in_tile = (column[None, :] * states + state[:, None]) * parts
    lane_numbers = width * states * parts
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    A_real, A_imaginary = load_rates(A_ptr + in_tile, tile, COMPLEX)
    ends = row + 1 == (sequence + 1) * chunks
    G_real, G_imaginary = load_numbers(
        grad_final_ptr + sequence * lane_numbers + in_tile, tile & ends, COMPLEX
    )
    bias = tl.zeros((BLOCK,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=lanes, other=0.0)
    passed = tl.zeros((BLOCK,), tl.float32)
    p_real = tl.full((STATES, BLOCK), 1.0, tl.float32)
    p_imaginary = tl.zeros((STATES, BLOCK), tl.float32)
    time = end - 1
    dt_at = dt_ptr + place * dt_batch + time * dt_time
    grad_at = grad_ptr + place * grad_batch + time * grad_time
    C_at = C_ptr + place * C_batch + time * C_time + group * C_group
    if z_ptr is not None:
        z_at = z_ptr + place * z_batch + time * z_time
    for _ in range(0, end - begin, STEPS):
        dts = ()
        grads = ()
        zs = ()
        Cs = ()
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            dts = dts + (tl.load(dt_at + column * dt_lane, mask=lanes & inside, other=0.0),)
            grads = grads + (tl.load(grad_at + column * grad_lane, mask=lanes & inside, other=0.0),)
            Cs = Cs + (load_raw(C_at + state * C_state, exists & inside, COMPLEX),)
            dt_at -= wide(dt_time)
            grad_at -= wide(grad_time)
            C_at -= wide(C_time)
            if z_ptr is not None:
                zs = zs + (tl.load(z_at + column * z_lane, mask=lanes & inside, other=0.0),)
                z_at -= wide(z_time)
        for s in tl.static_range(STEPS):
            delta, _slope = load_step_size(dts[s], bias, time - s >= begin, SOFTPLUS)
            grad = grads[s].to(tl.float32)
            if z_ptr is not None:
                z = zs[s].to(tl.float32)
                opened, _closed = sigmoids(z)
                grad *= z * opened
            f_real, f_imaginary = factors(delta, A_real, A_imaginary, COMPLEX)
            G_real, G_imaginary = add_read_gradient(G_real, G_imaginary, Cs[s], grad, COMPLEX)
            G_real, G_imaginary = conjugate_times(f_real, f_imaginary, G_real, G_imaginary, COMPLEX)
            passed += delta
            if COMPLEX:
                p_real, p_imaginary = conjugate_times(f_real, f_imaginary, p_real, p_imaginary, COMPLEX)
        time -= STEPS
    if not COMPLEX:
        p_real = tl.exp2(passed[None, :] * A_real)
    store_numbers(end_ptr + row * lane_numbers + in_tile, G_real, G_imaginary, tile, COMPLEX)
    store_numbers(product_ptr + row * lane_numbers + in_tile, p_real, p_imaginary, tile, COMPLEX)


@triton.jit
def backward_kernel(
    x_ptr, dt_ptr, B_ptr, C_ptr, z_ptr, grad_ptr, A_ptr, D_ptr, bias_ptr, start_ptr, kept_ptr, scratch_ptr,
    grad_final_ptr, carry_in_ptr, offsets_ptr,
    grad_x_ptr, grad_dt_ptr, grad_z_ptr, grad_B_ptr, grad_C_ptr, grad_A_ptr, grad_D_ptr, grad_bias_ptr,
    carry_out_ptr,
    length, channels, blocks, chunks, chunk_length, first_row, block_numbers, pieces,
    x_batch, x_lane, dt_batch, dt_lane, z_batch, z_lane, grad_batch, grad_lane,
    B_batch, B_group, B_state, C_batch, C_group, C_state,
    width: tl.constexpr, states: tl.constexpr, groups: tl.constexpr, x_time: tl.constexpr,
    dt_time: tl.constexpr, z_time: tl.constexpr, grad_time: tl.constexpr, B_time: tl.constexpr,
    C_time: tl.constexpr,
    COMPLEX: tl.constexpr, SOFTPLUS: tl.constexpr, SEGMENT: tl.constexpr, STEPS: tl.constexpr,
    STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row backward in time, segment by segment.

    A segment is first walked forward, to leave the state before every STEPS steps in the program's scratch,
    and then backward, with the states of STEPS steps in registers. Writes the tokens' gradients, those of B
    and C as sums over the program's lanes (``block_numbers`` apart), the parameters' as sums over the row.
    """
    parts: tl.constexpr = 2 if COMPLEX else 1
    group, column, lanes = lanes_of_program(channels, blocks, BLOCK)
    state = tl.arange(0, STATES).to(tl.int64)
    exists = state < states
    tile = exists[:, None] & lanes[None, :]
    in_tile = (column[None, :] * states + state[:, None]) * parts
    lane_numbers = width * states * parts
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length, first_row)
    A_real, A_imaginary = load_rates(A_ptr + in_tile, tile, COMPLEX)
    at_row = row * lane_numbers + in_tile
    ends = row + 1 == (sequence + 1) * chunks
    G_real, G_imaginary = load_numbers(
        grad_final_ptr + sequence * lane_numbers + in_tile, tile & ends, COMPLEX
    )
    if carry_in_ptr is not None:
        carry_real, carry_imaginary = load_numbers(carry_in_ptr + at_row, tile, COMPLEX)
        G_real += carry_real
        G_imaginary += carry_imaginary
    bias = tl.zeros((BLOCK,), tl.float32)
    skip = tl.zeros((BLOCK,), tl.float32)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=lanes, other=0.0)
    if D_ptr is not None:
        skip = tl.load(D_ptr + column, mask=lanes, other=0.0)
    sum_D = tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    sum_A = tl.zeros((STATES, BLOCK), tl.float32)
    sum_A_imaginary = tl.zeros((STATES, BLOCK), tl.float32)
    tile_numbers = STATES * BLOCK * parts
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    scratch = scratch_ptr + program * pieces * tile_numbers
    in_scratch = (tl.arange(0, STATES)[:, None] + tl.arange(0, BLOCK)[None, :] * STATES).to(tl.int64) * parts
    everywhere = tl.full((STATES, BLOCK), 1, tl.int1)
    in_block = (tl.program_id(1) % blocks) * block_numbers
    segments = (end - begin + SEGMENT - 1) // SEGMENT
    for back in range(0, segments):
        segment = segments - 1 - back
        opening = begin + segment * SEGMENT
        stop = tl.minimum(opening + SEGMENT, end)
        h_real = tl.zeros((STATES, BLOCK), tl.float32)
        h_imaginary = tl.zeros((STATES, BLOCK), tl.float32)
        if start_ptr is not None:
            h_real, h_imaginary = load_numbers(start_ptr + at_row, tile & (segment == 0), COMPLEX)
        if kept_ptr is not None:
            slot = kept_state(place, length, begin, segment, width, SEGMENT) * states * parts
            kept_real, kept_imaginary = load_numbers(kept_ptr + slot + in_tile, tile & (segment > 0), COMPLEX)
            h_real += kept_real
            h_imaginary += kept_imaginary
        store_numbers(scratch + in_scratch, h_real, h_imaginary, everywhere, COMPLEX)
        own_pieces = (stop - opening + STEPS - 1) // STEPS
        x_at = x_ptr + place * x_batch + opening * x_time
        dt_at = dt_ptr + place * dt_batch + opening * dt_time
        B_at = B_ptr + place * B_batch + opening * B_time + group * B_group
        scratch_at = scratch
        for _ in range(1, own_pieces):
            for _s in tl.static_range(STEPS):
                x = tl.load(x_at + column * x_lane, mask=lanes, other=0.0).to(tl.float32)
                dt = tl.load(dt_at + column * dt_lane, mask=lanes, other=0.0)
                B = load_raw(B_at + state * B_state, exists, COMPLEX)
                x_at += wide(x_time)
                dt_at += wide(dt_time)
                B_at += wide(B_time)
                delta, _slope = load_step_size(dt, bias, True, SOFTPLUS)
                f_real, f_imaginary = factors(delta, A_real, A_imaginary, COMPLEX)
                h_real, h_imaginary = advance(h_real, h_imaginary, f_real, f_imaginary, B, delta * x, COMPLEX)
            scratch_at += wide(tile_numbers)
            store_numbers(scratch_at + in_scratch, h_real, h_imaginary, everywhere, COMPLEX)
        tl.debug_barrier()
        # x_at, dt_at and B_at are at the last piece, each of which is walked forward and then backward.
        time = opening + (own_pieces - 1) * STEPS
        last = time + STEPS - 1
        # B's own values are loaded again on the way back: held, they would take a register each.
        back_B_at = B_ptr + place * B_batch + last * B_time + group * B_group
        C_at = C_ptr + place * C_batch + last * C_time + group * C_group
        grad_at = grad_ptr + place * grad_batch + last * grad_time
        if z_ptr is not None:
            z_at = z_ptr + place * z_batch + last * z_time
        at = (place * length + last) * width
        in_group = ((place * length + last) * groups + group) * states * parts + in_block
        for _ in range(0, own_pieces):
            xs = ()
            dts = ()
            Bs = ()
            for s in tl.static_range(STEPS):
                inside = time + s < stop
                xs = xs + (tl.load(x_at + column * x_lane, mask=lanes & inside, other=0.0),)
                dts = dts + (tl.load(dt_at + column * dt_lane, mask=lanes & inside, other=0.0),)
                Bs = Bs + (load_raw(B_at + state * B_state, exists & inside, COMPLEX),)
                x_at += wide(x_time)
                dt_at += wide(dt_time)
                B_at += wide(B_time)
            x_at -= wide(2 * STEPS * x_time)
            dt_at -= wide(2 * STEPS * dt_time)
            B_at -= wide(2 * STEPS * B_time)
            hs = (load_numbers(scratch_at + in_scratch, everywhere, COMPLEX),)
            scratch_at -= wide(tile_numbers)
            for s in tl.static_range(STEPS):
                delta, _slope = load_step_size(dts[s], bias, time + s < stop, SOFTPLUS)
                f_real, f_imaginary = factors(delta, A_real, A_imaginary, COMPLEX)
                driven = delta * xs[s].to(tl.float32)
                hs = hs + (advance(hs[s][0], hs[s][1], f_real, f_imaginary, Bs[s], driven, COMPLEX),)
            for s in tl.static_range(STEPS - 1, -1, -1):
                inside = time + s < stop
                here = lanes & inside
                x = xs[s].to(tl.float32)
                delta, slope = load_step_size(dts[s], bias, inside, SOFTPLUS)
                C = load_raw(C_at + state * C_state, exists & inside, COMPLEX)
                grad = tl.load(grad_at + column * grad_lane, mask=here, other=0.0).to(tl.float32)
                C_at -= wide(C_time)
                grad_at -= wide(grad_time)
                if z_ptr is not None:
                    z = tl.load(z_at + column * z_lane, mask=here, other=0.0).to(tl.float32)
                    z_at -= wide(z_time)
                    opened, closed = sigmoids(z)
                    y = read(hs[s + 1][0], hs[s + 1][1], C, COMPLEX) + skip * x
                    grad_z = grad * y * opened * (1.0 + z * closed)
                    tl.store(grad_z_ptr + at + column, grad_z.to(grad_z_ptr.dtype.element_ty), mask=here)
                    grad *= z * opened
                G_real, G_imaginary = add_read_gradient(G_real, G_imaginary, C, grad, COMPLEX)
                scaled = (2.0 * grad if COMPLEX else grad)[None, :]
                driven = (delta * x)[None, :]
                grad_C = tl.sum(scaled * hs[s + 1][0], axis=1)
                grad_C_imaginary = grad_C
                grad_B = tl.sum(driven * G_real, axis=1)
                grad_B_imaginary = grad_B
                if COMPLEX:
                    grad_C_imaginary = -tl.sum(scaled * hs[s + 1][1], axis=1)
                    grad_B_imaginary = tl.sum(driven * G_imaginary, axis=1)
                store_numbers(
                    grad_C_ptr + in_group + state * parts, grad_C, grad_C_imaginary, exists & inside, COMPLEX
                )
                store_numbers(
                    grad_B_ptr + in_group + state * parts, grad_B, grad_B_imaginary, exists & inside, COMPLEX
                )
                in_group -= groups * states * parts
                B = load_raw(back_B_at + state * B_state, exists & inside, COMPLEX)
                back_B_at -= wide(B_time)
                w = G_real * B[0].to(tl.float32)[:, None]
                if COMPLEX:
                    w += G_imaginary * B[1].to(tl.float32)[:, None]
                w = tl.sum(w, axis=0)
                f_real, f_imaginary = factors(delta, A_real, A_imaginary, COMPLEX)
                G_real, G_imaginary = conjugate_times(f_real, f_imaginary, G_real, G_imaginary, COMPLEX)
                Q_real, Q_imaginary = conjugate_times(hs[s][0], hs[s][1], G_real, G_imaginary, COMPLEX)
                by_rate = tl.sum(A_real * Q_real, axis=0) * LN_2
                if COMPLEX:
                    by_rate += tl.sum(A_imaginary * Q_imaginary, axis=0)
                grad_delta = tl.where(inside, by_rate + w * x, 0.0) * slope
                sum_A += delta[None, :] * Q_real
                if COMPLEX:
                    sum_A_imaginary += delta[None, :] * Q_imaginary
                sum_D += grad * x
                sum_bias += grad_delta
                grad_x = w * delta + skip * grad
                tl.store(grad_x_ptr + at + column, grad_x.to(grad_x_ptr.dtype.element_ty), mask=here)
                tl.store(grad_dt_ptr + at + column, grad_delta.to(grad_dt_ptr.dtype.element_ty), mask=here)
                at -= width
            time -= STEPS
        tl.debug_barrier()
    if carry_out_ptr is not None:
        store_numbers(carry_out_ptr + at_row, G_real, G_imaginary, tile, COMPLEX)
    store_numbers(grad_A_ptr + at_row, sum_A, sum_A_imaginary, tile, COMPLEX)
    if grad_D_ptr is not None:
        tl.store(grad_D_ptr + row * width + column, sum_D, mask=lanes)
    if grad_bias_ptr is not None:
        tl.store(grad_bias_ptr + row * width + column, sum_bias, mask=lanes)
