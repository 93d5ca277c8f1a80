"""The gradients of rotation_scan for few lanes, spans of time side by side (:mod:`.fused_spans`)."""

import triton
import triton.language as tl

from ..fused_math import sincos, sincos_of_phase
from ..fused_pairs import neighbours, parts
from ..rows import row_bounds
from .fused_spans import carry_over_spans, decay_and_gates, load_steps, times


@triton.jit
def backward_spans_kernel(
    grad_h_ptr, grad_final_ptr, h_ptr, x_ptr, gate_ptr, angle_ptr, decay_ptr, start_ptr,
    grad_x_ptr, grad_gate_ptr, grad_angle_ptr, grad_decay_ptr, summed_ptr, carry_out_ptr,
    offsets_ptr,
    length, width,
    grad_batch, grad_time, x_batch, x_time, gate_batch, gate_time,
    angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr,
    SPANS: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sequence backward in time; the first span is the last in time.

    Reads and writes what :func:`.fused_kernels.backward_kernel` does, whose mathematics these are.
    """
    span = tl.arange(0, SPANS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :] + 0 * span
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)[None, :] + 0 * span
    lanes = column < width
    pairs = pair < 2 * width
    states = pairs & (span == 0)
    row, _, place, first, begin, end = row_bounds(offsets_ptr, length, 1, length)
    at_row = row * 2 * width + pair
    state_real, state_imaginary = parts(tl.load(grad_final_ptr + at_row, mask=states, other=0.0), BLOCK)
    start = tl.zeros((SPANS, 2 * BLOCK), tl.float32)
    if start_ptr is not None:
        start = tl.load(start_ptr + at_row, mask=pairs, other=0.0)
    time = end - 1 - span * STEPS
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        sine, cosine = sincos_of_phase(turn * (end - first))
        state_real, state_imaginary = times(state_real, state_imaginary, cosine, -sine)
        phase = turn * (time - first + 1)
    factor = tl.full((SPANS, BLOCK), 1.0, tl.float32)
    if decay_ptr is not None and not TOKEN_DECAY:
        factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    sum_real = tl.zeros((SPANS, BLOCK), tl.float32)
    sum_imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
    for _ in range(0, end - begin, SPANS * STEPS):
        left = time - begin + 1
        at = (place * length + time) * 2 * width + pair
        lane_at = (place * length + time) * width + column
        grad_at = grad_h_ptr + place * grad_batch + time * grad_time + pair
        grads = load_steps(grad_at, -grad_time, pairs, left, STEPS)
        if h_ptr is not None:
            befores = load_steps(h_ptr + at - 2 * width, -2 * width, pairs, left - 1, STEPS)
        gates = None
        if gate_ptr is not None:
            gate_at = gate_ptr + place * gate_batch + time * gate_time + column
            gates = load_steps(gate_at, -gate_time, lanes, left, STEPS)
            if x_ptr is not None:
                x_at = x_ptr + place * x_batch + time * x_time + pair
                xs = load_steps(x_at, -x_time, pairs, left, STEPS)
        angles = None
        if TOKEN_ANGLE:
            angle_at = angle_ptr + place * angle_batch + time * angle_time + column
            angles = load_steps(angle_at, -angle_time, lanes, left, STEPS)
        decays = None
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + time * decay_time + column
            decays = load_steps(decay_at, -decay_time, lanes, left, STEPS)
        # Each step as v = g + carry, carry ← a · v; its gates; and φ_t's turn, one step more of those.
        cotangents = ()
        factors = ()
        gatings = ()
        turns = ()
        for s in tl.static_range(STEPS):
            a, opened, closed = decay_and_gates(gates, decays, factor, s < left, s)
            gatings = gatings + ((opened, closed),)
            g_real, g_imaginary = parts(grads[s], BLOCK)
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                factors = factors + ((a * cosine, -a * sine),)
            else:
                sine, cosine = sincos_of_phase(phase)
                phase -= turn
                turns = turns + ((cosine, sine),)
                g_real, g_imaginary = times(g_real, g_imaginary, cosine, -sine)
                factors = factors + ((a, a),)
            cotangents = cotangents + ((g_real, g_imaginary),)
        if not TOKEN_ANGLE:
            sine, cosine = sincos_of_phase(phase)
            turns = turns + ((cosine, sine),)
            phase -= (SPANS - 1) * STEPS * turn
        real = tl.zeros((SPANS, BLOCK), tl.float32)
        imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
        product = tl.full((SPANS, BLOCK), 1.0, tl.float32)
        product_imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
        for s in tl.static_range(STEPS):
            a, a_imaginary = factors[s]
            g_real, g_imaginary = cotangents[s]
            product, product_imaginary = times(product, product_imaginary, a, a_imaginary, TOKEN_ANGLE)
            real, imaginary = times(real + g_real, imaginary + g_imaginary, a, a_imaginary, TOKEN_ANGLE)
        real, imaginary, state_real, state_imaginary = carry_over_spans(
            product, product_imaginary, real, imaginary, state_real, state_imaginary,
            TOKEN_ANGLE, SPANS, BLOCK,
        )  # fmt: skip
        for s in tl.static_range(STEPS):
            inside = s < left
            a, a_imaginary = factors[s]
            g_real, g_imaginary = cotangents[s]
            opened, closed = gatings[s]
            v_real = real + g_real
            v_imaginary = imaginary + g_imaginary
            real, imaginary = times(v_real, v_imaginary, a, a_imaginary, TOKEN_ANGLE)
            if not TOKEN_ANGLE:
                cosine, sine = turns[s]
                v_real, v_imaginary = times(v_real, v_imaginary, cosine, sine)
            if h_ptr is not None:
                before = tl.where(s == left - 1, start, befores[s].to(tl.float32))
                h_real, h_imaginary = parts(before, BLOCK)
                if not TOKEN_ANGLE:
                    cosine, sine = turns[s + 1]
                    h_real, h_imaginary = times(h_real, h_imaginary, cosine, -sine)
                w_real, w_imaginary = times(h_real, h_imaginary, real, -imaginary)
                if summed_ptr is not None:
                    sum_real += tl.where(inside, w_real, 0.0)
                    sum_imaginary += tl.where(inside, w_imaginary, 0.0)
                if grad_angle_ptr is not None:
                    value = (-w_imaginary).to(grad_angle_ptr.dtype.element_ty)
                    tl.store(grad_angle_ptr + lane_at, value, mask=lanes & inside)
                if grad_decay_ptr is not None:
                    value = w_real.to(grad_decay_ptr.dtype.element_ty)
                    tl.store(grad_decay_ptr + lane_at, value, mask=lanes & inside)
                if gate_ptr is not None:
                    x_real, x_imaginary = parts(xs[s], BLOCK)
                    along_x = v_real * x_real + v_imaginary * x_imaginary
                    value = (opened * (closed * along_x - w_real)).to(grad_gate_ptr.dtype.element_ty)
                    tl.store(grad_gate_ptr + lane_at, value, mask=lanes & inside)
            value = neighbours(v_real * opened, v_imaginary * opened, BLOCK)
            tl.store(grad_x_ptr + at, value.to(grad_x_ptr.dtype.element_ty), mask=pairs & inside)
            at -= 2 * width
            lane_at -= width
        time -= SPANS * STEPS
    tl.store(carry_out_ptr + at_row, neighbours(state_real, state_imaginary, BLOCK), mask=states)
    if summed_ptr is not None:
        sum_real = tl.broadcast_to(tl.sum(sum_real, 0, keep_dims=True), (SPANS, BLOCK))
        sum_imaginary = tl.broadcast_to(tl.sum(sum_imaginary, 0, keep_dims=True), (SPANS, BLOCK))
        tl.store(summed_ptr + at_row, neighbours(sum_real, sum_imaginary, BLOCK), mask=states)
