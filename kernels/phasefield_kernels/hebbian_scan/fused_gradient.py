"""The last kernel of hebbian_scan's backward in Triton."""

import triton
import triton.language as tl

from .fused_chunk import (
    between,
    chunk_bounds,
    offsets,
    running_sums,
    since_start,
    strengths,
    until_end,
    whole,
)
from .fused_tiles import (
    added,
    as_operand,
    dot,
    inner,
    load,
    load_planes,
    scaled,
    store,
    transposed,
    zeros,
)


@triton.jit
def gradient_kernel(
    q_ptr, k_ptr, v_ptr, beta_ptr, decay_ptr, grad_y_ptr, u_ptr, grad_u_ptr, m_ptr, states_ptr, ends_ptr,
    grad_q_ptr, grad_k_ptr, grad_v_ptr, grad_decay_ptr, grad_beta_ptr,
    offsets_ptr, first_ptr, sequence_ptr,
    q_strides, k_strides, v_strides, beta_strides, decay_strides, grad_y_strides,
    length, chunks, heads, tokens, rows, columns,
    DELTA: tl.constexpr, ROW_BLOCKS: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients to q, k, log γ, and for the delta rule v and β."""
    # One chunk of one head, BLOCK_COLUMNS columns of Q and K. In the words of blocked.py:
    #   dQ = e^s dY conj(S) + dP K,     κ = −e^s dX conj(S) − (dX Uᴴ ⊙ G) K
    #   dK = dPᴴ Q + e^{s_end − s} U conj(dS_end) − (β dX Uᴴ ⊙ G)ᴴ K + β κ
    # with dX = Mᴴ dU. dβ and the sums for log γ are this block's part; the first block also owns dV = β dX.
    # S_end is not read: Re⟨dS_end, S_end⟩ = e^{s_end} Re⟨dS_end, S⟩ + Re⟨K, e^{s_end − s} U conj(dS_end)⟩.
    head = tl.program_id(1).to(tl.int64)
    place, begin, end = chunk_bounds(offsets_ptr, first_ptr, sequence_ptr, length, chunks, CHUNK)
    step = tl.arange(0, CHUNK)
    time = begin + step
    inside = time < end
    column0 = tl.program_id(2) * BLOCK_COLUMNS
    column = column0 + tl.arange(0, BLOCK_COLUMNS)
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    DTYPE: tl.constexpr = q_ptr.dtype.element_ty
    token = (place * length + time) * heads + head
    count = place * 0 + tokens
    sums = running_sums(decay_ptr, offsets(place, time, head, decay_strides), inside, CHUNK)
    beta = strengths(beta_ptr, offsets(place, time, head, beta_strides), inside, CHUNK)
    v_at = offsets(place, time, head, v_strides)
    grad_y_at = offsets(place, time, head, grad_y_strides)
    chunk = tl.program_id(0).to(tl.int64) * heads + head
    size = (place * 0 + rows) * columns
    dP = zeros(CHUNK, CHUNK, COMPLEX)
    dQ = zeros(CHUNK, BLOCK_COLUMNS, COMPLEX)
    dK = zeros(CHUNK, BLOCK_COLUMNS, COMPLEX)
    grad_beta = tl.zeros((CHUNK,), tl.float32)
    kept = tl.zeros((BLOCK_ROWS,), tl.float32)
    if DELTA:
        M = load_planes(m_ptr, token * CHUNK, inside, step, CHUNK, count * CHUNK, COMPLEX)
        M = transposed(M, COMPLEX)
        dA = zeros(CHUNK, CHUNK, COMPLEX)
        kappa = zeros(CHUNK, BLOCK_COLUMNS, COMPLEX)
    for block in range(ROW_BLOCKS):
        row0 = block * BLOCK_ROWS
        row = row0 + tl.arange(0, BLOCK_ROWS)
        state_at = (chunk * SIZE * rows + row) * columns
        S = load_planes(states_ptr, state_at, row < rows, column, columns, size, COMPLEX)
        dS = load_planes(ends_ptr, state_at, row < rows, column, columns, size, COMPLEX)
        dY = load(grad_y_ptr, grad_y_at, inside, row0, rows, BLOCK_ROWS, COMPLEX)
        if DELTA:
            U = load_planes(u_ptr, token * rows, inside, row, rows, count * rows, COMPLEX)
            dU = load_planes(grad_u_ptr, token * rows, inside, row, rows, count * rows, COMPLEX)
            dX = dot(M, dU, zeros(CHUNK, BLOCK_ROWS, COMPLEX), True, False, COMPLEX, PRECISION)
            if tl.program_id(2) == 0:
                dV = scaled(dX, beta[:, None], COMPLEX)
                store(grad_v_ptr, token * rows * SIZE, inside, row0, rows, dV, BLOCK_ROWS, COMPLEX)
                if grad_beta_ptr is not None:
                    v = load(v_ptr, v_at, inside, row0, rows, BLOCK_ROWS, COMPLEX)
                    grad_beta += inner(v, dX, COMPLEX)
            dX = as_operand(dX, DTYPE, COMPLEX)
            dA = dot(dX, transposed(U, COMPLEX), dA, False, True, COMPLEX, PRECISION)
            kappa = dot(dX, S, kappa, False, True, COMPLEX, PRECISION)
        else:
            U = load(v_ptr, v_at, inside, row0, rows, BLOCK_ROWS, COMPLEX)
            U = as_operand(scaled(U, beta[:, None], COMPLEX), DTYPE, COMPLEX)
        dP = dot(dY, transposed(U, COMPLEX), dP, False, True, COMPLEX, PRECISION)
        dQ = dot(dY, S, dQ, False, True, COMPLEX, PRECISION)
        dK = dot(U, dS, dK, False, True, COMPLEX, PRECISION)
        if grad_decay_ptr is not None:
            kept += inner(S, dS, COMPLEX)
    q = load(q_ptr, offsets(place, time, head, q_strides), inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
    k = load(k_ptr, offsets(place, time, head, k_strides), inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
    lower = between(sums, CHUNK, False, False)
    dP = as_operand(scaled(dP, lower, COMPLEX), DTYPE, COMPLEX)
    dQ = scaled(dQ, since_start(sums)[:, None], COMPLEX)
    dQ = dot(dP, k, dQ, False, False, COMPLEX, PRECISION)
    store(grad_q_ptr, token * columns * SIZE, inside, column0, columns, dQ, BLOCK_COLUMNS, COMPLEX)
    dK = scaled(dK, until_end(sums)[:, None], COMPLEX)
    kept_whole = tl.sum(kept, 0) * whole(sums) + tl.sum(inner(k, dK, COMPLEX), 0)
    dK = dot(transposed(dP, COMPLEX), q, dK, True, False, COMPLEX, PRECISION)
    if DELTA:
        strict = tl.where(step[:, None] > step[None, :], lower, 0.0)
        dA = as_operand(scaled(dA, -strict, COMPLEX), DTYPE, COMPLEX)
        kappa = scaled(kappa, -since_start(sums)[:, None], COMPLEX)
        kappa = dot(dA, k, kappa, False, False, COMPLEX, PRECISION)
        strong_k = as_operand(scaled(k, beta[:, None], COMPLEX), DTYPE, COMPLEX)
        dK = dot(transposed(dA, COMPLEX), strong_k, dK, True, False, COMPLEX, PRECISION)
    ds = inner(q, dQ, COMPLEX) - inner(k, dK, COMPLEX)
    if DELTA:
        reading = inner(k, kappa, COMPLEX)
        ds += beta * reading
        grad_beta += reading
        dK = added(dK, scaled(kappa, beta[:, None], COMPLEX), 1, COMPLEX)
        if grad_beta_ptr is not None:
            tl.store(grad_beta_ptr + tl.program_id(2) * count + token, grad_beta, mask=inside)
    store(grad_k_ptr, token * columns * SIZE, inside, column0, columns, dK, BLOCK_COLUMNS, COMPLEX)
    if grad_decay_ptr is not None:
        later = tl.where(step[:, None] >= step[None, :], ds[:, None], 0.0)
        ds = tl.sum(later, 0) + kept_whole
        tl.store(grad_decay_ptr + tl.program_id(2) * count + token, ds, mask=inside)
