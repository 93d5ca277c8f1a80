"""rotation_scan's kernels: the state in registers, the time loop inside (rows: :mod:`..rows`).

Where the angle is constant the state is kept in the de-rotated frame, ``u_t = e^{-iφ_t} h_t`` with
``φ_t = (t + 1) θ``: there ``u_t = e^{λ_t} u_{t-1} + e^{-iφ_t} x_t`` has real factors, and no rounding of
e^{iθ} is ever multiplied up. φ_t is a 64-bit integer phase, exact at any t. Per-token angles turn the
state itself. A gate γ puts ``σ(γ_t) x_t`` in x's place and ``(1 − σ(γ_t)) e^{λ_t}`` in the decay's. A
pointer that is None is an input not given or an output not wanted; pairs are loaded as the 2 · BLOCK
neighbouring floats they are.
"""

import triton
import triton.language as tl

from ..fused_math import sigmoids, sincos, sincos_of_phase, sincos_of_phase_float64
from ..fused_pairs import neighbours, parts
from ..rows import row_bounds


@triton.jit
def forward_kernel(
    x_ptr, gate_ptr, angle_ptr, decay_ptr, start_ptr, h_ptr, end_ptr, product_ptr, final_ptr, offsets_ptr,
    length, width, chunks, chunk_length,
    x_batch, x_time, gate_batch, gate_time, angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row forward in time.

    Reads x (and the gate, and the tokens' angles and decays) and the row's start state; writes h and, at a
    sequence's end, the final state; or, as a chunk's first pass, its own end state and the product of its
    factors.
    """
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = column < width
    pairs = pair < 2 * width
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    at_row = row * 2 * width + pair
    real = tl.zeros((BLOCK,), tl.float32)
    imaginary = tl.zeros((BLOCK,), tl.float32)
    if start_ptr is not None:
        real, imaginary = parts(tl.load(start_ptr + at_row, mask=pairs, other=0.0), BLOCK)
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        phase = turn * (begin - first + 1)
    else:
        angle_at = angle_ptr + place * angle_batch + begin * angle_time + column
    factor = tl.full((BLOCK,), 1.0, tl.float32)
    if decay_ptr is not None:
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + begin * decay_time + column
        else:
            factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    if gate_ptr is not None:
        ungated = factor
        gate_at = gate_ptr + place * gate_batch + begin * gate_time + column
    product = tl.full((BLOCK,), 1.0, tl.float32)
    product_imaginary = tl.zeros((BLOCK,), tl.float32)
    x_at = x_ptr + place * x_batch + begin * x_time + pair
    at = (place * length + begin) * 2 * width + pair
    time = begin
    for _ in range(0, end - begin, STEPS):
        xs = ()
        gates = ()
        angles = ()
        decays = ()
        for s in tl.static_range(STEPS):
            inside = time + s < end
            xs = xs + (tl.load(x_at, mask=pairs & inside, other=0.0),)
            x_at += x_time
            if gate_ptr is not None:
                gates = gates + (tl.load(gate_at, mask=lanes & inside, other=0.0),)
                gate_at += gate_time
            if TOKEN_ANGLE:
                angles = angles + (tl.load(angle_at, mask=lanes & inside, other=0.0),)
                angle_at += angle_time
            if TOKEN_DECAY:
                decays = decays + (tl.load(decay_at, mask=lanes & inside, other=0.0),)
                decay_at += decay_time
        for s in tl.static_range(STEPS):
            inside = time + s < end
            x_real, x_imaginary = parts(xs[s], BLOCK)
            if TOKEN_DECAY:
                factor = tl.exp(decays[s].to(tl.float32))
            if gate_ptr is not None:
                opened, closed = sigmoids(gates[s].to(tl.float32))
                factor = closed * (factor if TOKEN_DECAY else ungated)
                x_real *= opened
                x_imaginary *= opened
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                sine *= factor
                cosine *= factor
                new_real = real * cosine - imaginary * sine + x_real
                new_imaginary = real * sine + imaginary * cosine + x_imaginary
                h_real = new_real
                h_imaginary = new_imaginary
                if product_ptr is not None:
                    turned = product * cosine - product_imaginary * sine
                    turned_imaginary = product * sine + product_imaginary * cosine
                    product = tl.where(inside, turned, product)
                    product_imaginary = tl.where(inside, turned_imaginary, product_imaginary)
            else:
                sine, cosine = sincos_of_phase(phase)
                phase += turn
                new_real = factor * real + (x_real * cosine + x_imaginary * sine)
                new_imaginary = factor * imaginary + (x_imaginary * cosine - x_real * sine)
                h_real = new_real * cosine - new_imaginary * sine
                h_imaginary = new_real * sine + new_imaginary * cosine
                if product_ptr is not None:
                    product = tl.where(inside, product * factor, product)
            real = tl.where(inside, new_real, real)
            imaginary = tl.where(inside, new_imaginary, imaginary)
            if h_ptr is not None:
                value = neighbours(h_real, h_imaginary, BLOCK).to(h_ptr.dtype.element_ty)
                tl.store(h_ptr + at, value, mask=pairs & inside)
            at += 2 * width
        time += STEPS
    if end_ptr is not None:
        tl.store(end_ptr + at_row, neighbours(real, imaginary, BLOCK), mask=pairs)
        tl.store(product_ptr + at_row, neighbours(product, product_imaginary, BLOCK), mask=pairs)
    if final_ptr is not None:
        if row + 1 == (sequence + 1) * chunks:
            if not TOKEN_ANGLE:
                # Once a call, in float64: the same rounding at every call would add up over calls.
                sine, cosine = sincos_of_phase_float64(turn * (end - first))
                exact = real.to(tl.float64)
                exact_imaginary = imaginary.to(tl.float64)
                real = (exact * cosine - exact_imaginary * sine).to(tl.float32)
                imaginary = (exact * sine + exact_imaginary * cosine).to(tl.float32)
            final = final_ptr + sequence * 2 * width + pair
            tl.store(final, neighbours(real, imaginary, BLOCK), mask=pairs)


@triton.jit
def backward_kernel(
    grad_h_ptr, grad_final_ptr, h_ptr, x_ptr, gate_ptr, angle_ptr, decay_ptr, start_ptr, carry_in_ptr,
    grad_x_ptr, grad_gate_ptr, grad_angle_ptr, grad_decay_ptr, summed_ptr, carry_out_ptr, product_ptr,
    offsets_ptr,
    length, width, chunks, chunk_length,
    grad_batch, grad_time, x_batch, x_time, gate_batch, gate_time,
    angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row backward in time.

    G_t is the whole gradient of h_t, g_t the direct one, a_t = exp(λ_t + iθ_t):
      G_t = g_t + carry,      carry ← conj(a_t) G_t,      dx_t = G_t
      w_t = conj(G_t) a_t h_{t-1},      dλ_t = Re w_t,      dθ_t = −Im w_t
    The carry into a sequence's last step is dL/d(final_state), in whichever pass; out of its first,
    d(initial_state). With a constant angle all of it happens in the de-rotated frame, v_t = e^{-iφ_t} G_t:
      v_t = e^{-iφ_t} g_t + carry,      carry ← e^{λ_t} v_t,
      w_t = conj(v_t) e^{λ_t} e^{-iφ_{t-1}} h_{t-1}
    With a gate γ_t, g = σ(γ_t): a_t = (1 − g) exp(λ_t + iθ_t) and the input is g x_t, so
      dx_t = g G_t,      dγ_t = g (1 − g) Re(conj(G_t) x_t) − g Re w_t
    A chunk's carry out is linear in its carry in: `product` is the factor, for the chunked form.
    """
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = column < width
    pairs = pair < 2 * width
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    at_row = row * 2 * width + pair
    sequence_at = sequence * 2 * width + pair
    ends = row + 1 == (sequence + 1) * chunks
    real, imaginary = parts(tl.load(grad_final_ptr + sequence_at, mask=pairs & ends, other=0.0), BLOCK)
    start = tl.zeros((2 * BLOCK,), tl.float32)
    if start_ptr is not None:
        start = tl.load(start_ptr + sequence_at, mask=pairs, other=0.0)
    time = end - 1
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        phase = turn * (end - first)
        sine, cosine = sincos_of_phase(phase)
        turned = real * cosine + imaginary * sine
        imaginary = imaginary * cosine - real * sine
        real = turned
    else:
        angle_at = angle_ptr + place * angle_batch + time * angle_time + column
        angle_grad_at = (place * length + time) * width + column
    factor = tl.full((BLOCK,), 1.0, tl.float32)
    if decay_ptr is not None:
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + time * decay_time + column
            decay_grad_at = (place * length + time) * width + column
        else:
            factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    if gate_ptr is not None:
        ungated = factor
        gate_at = gate_ptr + place * gate_batch + time * gate_time + column
        if x_ptr is not None:
            gate_grad_at = (place * length + time) * width + column
            x_at = x_ptr + place * x_batch + time * x_time + pair
    if carry_in_ptr is not None:
        carry_real, carry_imaginary = parts(tl.load(carry_in_ptr + at_row, mask=pairs, other=0.0), BLOCK)
        real += carry_real
        imaginary += carry_imaginary
    product = tl.full((BLOCK,), 1.0, tl.float32)
    product_imaginary = tl.zeros((BLOCK,), tl.float32)
    sum_real = tl.zeros((BLOCK,), tl.float32)
    sum_imaginary = tl.zeros((BLOCK,), tl.float32)
    grad_at = grad_h_ptr + place * grad_batch + time * grad_time + pair
    at = (place * length + time) * 2 * width + pair
    for _ in range(0, end - begin, STEPS):
        grads = ()
        befores = ()
        xs = ()
        gates = ()
        angles = ()
        decays = ()
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            grads = grads + (tl.load(grad_at, mask=pairs & inside, other=0.0),)
            grad_at -= grad_time
            if h_ptr is not None:
                earlier = pairs & inside & (time - s > first)
                befores = befores + (tl.load(h_ptr + at - 2 * (s + 1) * width, mask=earlier, other=0.0),)
            if gate_ptr is not None:
                gates = gates + (tl.load(gate_at, mask=lanes & inside, other=0.0),)
                gate_at -= gate_time
                if x_ptr is not None:
                    xs = xs + (tl.load(x_at, mask=pairs & inside, other=0.0),)
                    x_at -= x_time
            if TOKEN_ANGLE:
                angles = angles + (tl.load(angle_at, mask=lanes & inside, other=0.0),)
                angle_at -= angle_time
            if TOKEN_DECAY:
                decays = decays + (tl.load(decay_at, mask=lanes & inside, other=0.0),)
                decay_at -= decay_time
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            g_real, g_imaginary = parts(grads[s], BLOCK)
            if TOKEN_DECAY:
                factor = tl.exp(decays[s].to(tl.float32))
            if gate_ptr is not None:
                opened, closed = sigmoids(gates[s].to(tl.float32))
                factor = closed * (factor if TOKEN_DECAY else ungated)
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                sine *= factor
                cosine *= factor
                v_real = g_real + real
                v_imaginary = g_imaginary + imaginary
                whole_real = v_real
                whole_imaginary = v_imaginary
                back_real = v_real * cosine + v_imaginary * sine
                back_imaginary = v_imaginary * cosine - v_real * sine
            else:
                v_real = g_real * cosine + g_imaginary * sine + real
                v_imaginary = g_imaginary * cosine - g_real * sine + imaginary
                whole_real = v_real * cosine - v_imaginary * sine
                whole_imaginary = v_real * sine + v_imaginary * cosine
                back_real = factor * v_real
                back_imaginary = factor * v_imaginary
                phase -= turn
                sine, cosine = sincos_of_phase(phase)  # of φ_{t-1}: for h_{t-1} now, for g next
            if h_ptr is not None:
                before = tl.where(time - s == first, start, befores[s].to(tl.float32))
                h_real, h_imaginary = parts(before, BLOCK)
                if TOKEN_ANGLE:
                    # conj(G) a h, as conj(conj(a) G) h
                    w_real = back_real * h_real + back_imaginary * h_imaginary
                    w_imaginary = back_real * h_imaginary - back_imaginary * h_real
                else:
                    u_real = h_real * cosine + h_imaginary * sine
                    u_imaginary = h_imaginary * cosine - h_real * sine
                    w_real = back_real * u_real + back_imaginary * u_imaginary
                    w_imaginary = back_real * u_imaginary - back_imaginary * u_real
                if summed_ptr is not None:
                    sum_real += tl.where(inside, w_real, 0.0)
                    sum_imaginary += tl.where(inside, w_imaginary, 0.0)
                if grad_angle_ptr is not None:
                    value = (-w_imaginary).to(grad_angle_ptr.dtype.element_ty)
                    tl.store(grad_angle_ptr + angle_grad_at, value, mask=lanes & inside)
                    angle_grad_at -= width
                if grad_decay_ptr is not None:
                    value = w_real.to(grad_decay_ptr.dtype.element_ty)
                    tl.store(grad_decay_ptr + decay_grad_at, value, mask=lanes & inside)
                    decay_grad_at -= width
                if gate_ptr is not None:
                    x_real, x_imaginary = parts(xs[s], BLOCK)
                    along_x = whole_real * x_real + whole_imaginary * x_imaginary
                    value = opened * (closed * along_x - w_real)
                    tl.store(
                        grad_gate_ptr + gate_grad_at,
                        value.to(grad_gate_ptr.dtype.element_ty),
                        mask=lanes & inside,
                    )
                    gate_grad_at -= width
            if product_ptr is not None:
                if TOKEN_ANGLE:
                    turned = product * cosine + product_imaginary * sine
                    turned_imaginary = product_imaginary * cosine - product * sine
                    product = tl.where(inside, turned, product)
                    product_imaginary = tl.where(inside, turned_imaginary, product_imaginary)
                else:
                    product = tl.where(inside, product * factor, product)
            real = tl.where(inside, back_real, real)
            imaginary = tl.where(inside, back_imaginary, imaginary)
            if grad_x_ptr is not None:
                if gate_ptr is not None:
                    whole_real *= opened
                    whole_imaginary *= opened
                value = neighbours(whole_real, whole_imaginary, BLOCK).to(grad_x_ptr.dtype.element_ty)
                tl.store(grad_x_ptr + at, value, mask=pairs & inside)
            at -= 2 * width
        time -= STEPS
    tl.store(carry_out_ptr + at_row, neighbours(real, imaginary, BLOCK), mask=pairs)
    if product_ptr is not None:
        tl.store(product_ptr + at_row, neighbours(product, product_imaginary, BLOCK), mask=pairs)
    if summed_ptr is not None:
        tl.store(summed_ptr + at_row, neighbours(sum_real, sum_imaginary, BLOCK), mask=pairs)
