"""rotation_scan for few lanes: spans of time side by side (frames and gates: :mod:`.fused_kernels`).

A program owns BLOCK lanes of one sequence and takes SPANS · STEPS time steps at a time. Each of the SPANS
*spans*, STEPS neighbouring steps, belongs to other threads; all of them load theirs at once and walk through
them twice, in registers: from no state, which gives what each span ends with and the product of its factors;
from those follow the states that enter them; and from these, as the time loop does. Memory is read and
written once, by SPANS times as many threads for the same lanes. Blocks are ``[SPANS, BLOCK]``.

The state between two such tiles is kept by the threads of the first span; the others hold 0.
"""

import triton
import triton.language as tl

from ..fused_math import sigmoids, sincos, sincos_of_phase, sincos_of_phase_float64
from ..fused_pairs import neighbours, parts
from ..rows import row_bounds


@triton.jit
def load_steps(at, stride, mask, left, STEPS: tl.constexpr):
    """A value of each of STEPS steps, ``stride`` apart; 0 from the ``left``-th on."""
    values = ()
    for s in tl.static_range(STEPS):
        values = values + (tl.load(at, mask=mask & (s < left), other=0.0),)
        at += stride
    return values


@triton.jit
def times(real, imaginary, a, a_imaginary, COMPLEX: tl.constexpr = True):
    """``z · a`` in parts; a's imaginary part is read if COMPLEX."""
    if COMPLEX:
        return real * a - imaginary * a_imaginary, real * a_imaginary + imaginary * a
    else:
        return real * a, imaginary * a


@triton.jit
def decay_and_gates(gates, decays, factor, inside, s: tl.constexpr):
    """Step s's factor without its turn, 1 where it is not inside, and (σ(γ), 1 − σ(γ)), 1 if not gated."""
    opened = tl.full(factor.shape, 1.0, tl.float32)
    closed = opened
    if decays is not None:
        factor = tl.exp(decays[s].to(tl.float32))
    if gates is not None:
        opened, closed = sigmoids(gates[s].to(tl.float32))
        factor = closed * factor
    return tl.where(inside, factor, 1.0), opened, closed


@triton.jit
def _then_real(product, real, imaginary, a, b_real, b_imaginary):
    return product * a, real * a + b_real, imaginary * a + b_imaginary


@triton.jit
def _then_complex(product, product_imaginary, real, imaginary, a, a_imaginary, b_real, b_imaginary):
    product, product_imaginary = times(product, product_imaginary, a, a_imaginary)
    real, imaginary = times(real, imaginary, a, a_imaginary)
    return product, product_imaginary, real + b_real, imaginary + b_imaginary


@triton.jit
def carry_over_spans(
    product, product_imaginary, real, imaginary, state_real, state_imaginary,
    COMPLEX: tl.constexpr, SPANS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The state that enters each span, and the one that leaves the last.

    Args:
        product, product_imaginary: the spans' factors multiplied up; the imaginary part is read if COMPLEX.
        real, imaginary: what each span ends with from no state.
        state_real, state_imaginary: the state before the first span, there; 0 elsewhere.

    Returns:
        ``(entering, its imaginary part, next state, its imaginary part)``, the next state as it was given.
    """
    entered, entered_imaginary = times(state_real, state_imaginary, product, product_imaginary, COMPLEX)
    real += entered
    imaginary += entered_imaginary
    if COMPLEX:
        _, _, real, imaginary = tl.associative_scan(
            (product, product_imaginary, real, imaginary), 0, _then_complex
        )
    else:
        _, real, imaginary = tl.associative_scan((product, real, imaginary), 0, _then_real)
    # From the span before; the first one gets the last one's end, which is the next state.
    span = tl.arange(0, SPANS)[:, None]
    source = tl.broadcast_to((span + (SPANS - 1)) % SPANS, (SPANS, 2 * BLOCK))
    real, imaginary = parts(tl.gather(neighbours(real, imaginary, BLOCK), source, 0), BLOCK)
    first = span == 0
    return (
        tl.where(first, state_real, real),
        tl.where(first, state_imaginary, imaginary),
        tl.where(first, real, 0.0),
        tl.where(first, imaginary, 0.0),
    )


@triton.jit
def forward_spans_kernel(
    x_ptr, gate_ptr, angle_ptr, decay_ptr, start_ptr, h_ptr, final_ptr, offsets_ptr,
    length, width,
    x_batch, x_time, gate_batch, gate_time, angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr,
    SPANS: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sequence forward in time.

    Reads x, the gate, the tokens' angles and decays and the start state; writes h and the final state.
    """
    span = tl.arange(0, SPANS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :] + 0 * span
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)[None, :] + 0 * span
    lanes = column < width
    pairs = pair < 2 * width
    states = pairs & (span == 0)
    row, _, place, first, begin, end = row_bounds(offsets_ptr, length, 1, length)
    at_row = row * 2 * width + pair
    time = begin + span * STEPS
    state_real = tl.zeros((SPANS, BLOCK), tl.float32)
    state_imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
    if start_ptr is not None:
        state_real, state_imaginary = parts(tl.load(start_ptr + at_row, mask=states, other=0.0), BLOCK)
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        phase = turn * (time - first + 1)
    factor = tl.full((SPANS, BLOCK), 1.0, tl.float32)
    if decay_ptr is not None and not TOKEN_DECAY:
        factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    for _ in range(0, end - begin, SPANS * STEPS):
        left = end - time
        x_at = x_ptr + place * x_batch + time * x_time + pair
        xs = load_steps(x_at, x_time, pairs, left, STEPS)
        gates = None
        if gate_ptr is not None:
            gate_at = gate_ptr + place * gate_batch + time * gate_time + column
            gates = load_steps(gate_at, gate_time, lanes, left, STEPS)
        angles = None
        if TOKEN_ANGLE:
            angle_at = angle_ptr + place * angle_batch + time * angle_time + column
            angles = load_steps(angle_at, angle_time, lanes, left, STEPS)
        decays = None
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + time * decay_time + column
            decays = load_steps(decay_at, decay_time, lanes, left, STEPS)
        # Each step as state ← a · state + b, and its turn out of the frame.
        factors = ()
        inputs = ()
        turns = ()
        for s in tl.static_range(STEPS):
            a, opened, _ = decay_and_gates(gates, decays, factor, s < left, s)
            b_real, b_imaginary = parts(xs[s], BLOCK)
            b_real *= opened
            b_imaginary *= opened
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                factors = factors + ((a * cosine, a * sine),)
            else:
                sine, cosine = sincos_of_phase(phase)
                phase += turn
                factors = factors + ((a, a),)
                turns = turns + ((cosine, sine),)
                b_real, b_imaginary = times(b_real, b_imaginary, cosine, -sine)
            inputs = inputs + ((b_real, b_imaginary),)
        real = tl.zeros((SPANS, BLOCK), tl.float32)
        imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
        product = tl.full((SPANS, BLOCK), 1.0, tl.float32)
        product_imaginary = tl.zeros((SPANS, BLOCK), tl.float32)
        for s in tl.static_range(STEPS):
            a, a_imaginary = factors[s]
            b_real, b_imaginary = inputs[s]
            product, product_imaginary = times(product, product_imaginary, a, a_imaginary, TOKEN_ANGLE)
            real, imaginary = times(real, imaginary, a, a_imaginary, TOKEN_ANGLE)
            real += b_real
            imaginary += b_imaginary
        real, imaginary, state_real, state_imaginary = carry_over_spans(
            product, product_imaginary, real, imaginary, state_real, state_imaginary,
            TOKEN_ANGLE, SPANS, BLOCK,
        )  # fmt: skip
        h_at = h_ptr + (place * length + time) * 2 * width + pair
        for s in tl.static_range(STEPS):
            a, a_imaginary = factors[s]
            b_real, b_imaginary = inputs[s]
            real, imaginary = times(real, imaginary, a, a_imaginary, TOKEN_ANGLE)
            real += b_real
            imaginary += b_imaginary
            h_real = real
            h_imaginary = imaginary
            if not TOKEN_ANGLE:
                cosine, sine = turns[s]
                h_real, h_imaginary = times(real, imaginary, cosine, sine)
            value = neighbours(h_real, h_imaginary, BLOCK).to(h_ptr.dtype.element_ty)
            tl.store(h_at, value, mask=pairs & (s < left))
            h_at += 2 * width
        time += SPANS * STEPS
        if not TOKEN_ANGLE:
            phase += (SPANS - 1) * STEPS * turn
    if not TOKEN_ANGLE:
        # Once a call, in float64: the same rounding at every call would add up over calls.
        sine, cosine = sincos_of_phase_float64(turn * (end - first))
        exact, exact_imaginary = times(
            state_real.to(tl.float64), state_imaginary.to(tl.float64), cosine, sine
        )
        state_real = exact.to(tl.float32)
        state_imaginary = exact_imaginary.to(tl.float32)
    tl.store(final_ptr + at_row, neighbours(state_real, state_imaginary, BLOCK), mask=states)
