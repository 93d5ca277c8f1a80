"""hebbian_scan's kernels in Triton but for the last gradients: what chunks write, the states, and the reads.

The mathematics is in :mod:`.blocked`, whose names these kernels use. A state is [rows = V, columns = K]. A
program of the chunk kernels owns one chunk of one head (``tl.program_id(0)`` is the chunk); one of the state
kernel owns a tile of one head's state and walks over the chunks. Between kernels states and what tokens write
lie in planes, in the inputs' dtype, in which they are multiplied: ``states [chunk, H, part, V, K]``,
``U, W [part, B, T, H, D]``. A pointer that is None is an input not given or an output not wanted.
"""

import triton
import triton.language as tl

from .fused_chunk import (
    between,
    chunk_bounds,
    inverse,
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
    store_planes,
    transposed,
    zeros,
)


@triton.jit
def written_kernel(
    k_ptr, v_ptr, beta_ptr, decay_ptr, u_ptr, w_ptr, m_ptr, offsets_ptr, first_ptr, sequence_ptr,
    k_strides, v_strides, beta_strides, decay_strides, length, chunks, heads, tokens, rows, columns,
    ROW_BLOCKS: tl.constexpr, COLUMN_BLOCKS: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    INVERSE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """The delta rule's M = (1 + A)⁻¹, U₀ = M βV and W = M βe^s K of a chunk."""
    head = tl.program_id(1).to(tl.int64)
    place, begin, end = chunk_bounds(offsets_ptr, first_ptr, sequence_ptr, length, chunks, CHUNK)
    time = begin + tl.arange(0, CHUNK)
    inside = time < end
    DTYPE: tl.constexpr = k_ptr.dtype.element_ty
    token = (place * length + time) * heads + head
    count = place * 0 + tokens
    sums = running_sums(decay_ptr, offsets(place, time, head, decay_strides), inside, CHUNK)
    beta = strengths(beta_ptr, offsets(place, time, head, beta_strides), inside, CHUNK)
    k_at = offsets(place, time, head, k_strides)
    v_at = offsets(place, time, head, v_strides)
    A = zeros(CHUNK, CHUNK, COMPLEX)
    for block in tl.static_range(COLUMN_BLOCKS):
        column = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        k = load(k_ptr, k_at, inside, column, columns, COMPLEX)
        A = dot(k, transposed(k, COMPLEX), A, False, True, COMPLEX, PRECISION)
    A = scaled(A, between(sums, CHUNK, True, False) * beta[:, None], COMPLEX)
    M = as_operand(inverse(A, CHUNK, COMPLEX, INVERSE), DTYPE, COMPLEX)
    if m_ptr is not None:
        step = tl.arange(0, CHUNK)
        store_planes(m_ptr, token * CHUNK, inside, step, CHUNK, count * CHUNK, M, COMPLEX)
    strength = beta * since_start(sums)
    for block in tl.static_range(COLUMN_BLOCKS):
        column = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        k = load(k_ptr, k_at, inside, column, columns, COMPLEX)
        k = as_operand(scaled(k, strength[:, None], COMPLEX), DTYPE, COMPLEX)
        W = dot(M, k, zeros(CHUNK, BLOCK_COLUMNS, COMPLEX), False, False, COMPLEX, PRECISION)
        store_planes(w_ptr, token * columns, inside, column, columns, count * columns, W, COMPLEX)
    for block in tl.static_range(ROW_BLOCKS):
        row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        v = load(v_ptr, v_at, inside, row, rows, COMPLEX)
        v = as_operand(scaled(v, beta[:, None], COMPLEX), DTYPE, COMPLEX)
        U = dot(M, v, zeros(CHUNK, BLOCK_ROWS, COMPLEX), False, False, COMPLEX, PRECISION)
        store_planes(u_ptr, token * rows, inside, row, rows, count * rows, U, COMPLEX)


@triton.jit
def state_kernel(
    key_ptr, value_ptr, beta_ptr, decay_ptr, u_ptr, w_ptr, k_ptr, start_ptr, states_ptr, final_ptr,
    offsets_ptr, first_ptr, key_strides, value_strides, beta_strides, decay_strides, k_strides,
    length, chunks, heads, tokens, rows, columns,
    DELTA: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """States from chunk to chunk, forward or their gradients backward."""
    # A tile of S, from chunk to chunk: writes it as it is before each chunk, and at last. Key and value are K
    # and V, and u holds U₀, which becomes U (W of the delta rule is read with the whole S: one block of
    # columns). REVERSE, the same for dS: from the last chunk to the first with Q and dY, where u holds
    # (Q Kᴴ ⊙ G)ᴴ dY, which becomes dU.
    sequence = tl.program_id(0) // heads
    head = (tl.program_id(0) % heads).to(tl.int64)
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(2) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    in_rows = row < rows
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    DTYPE: tl.constexpr = key_ptr.dtype.element_ty
    count = head * 0 + tokens
    place = sequence.to(tl.int64)
    begin = head * 0
    end = begin + length
    chunk = place * chunks
    if offsets_ptr is not None:
        begin = tl.load(offsets_ptr + sequence).to(tl.int64)
        end = tl.load(offsets_ptr + sequence + 1).to(tl.int64)
        chunk = tl.load(first_ptr + sequence).to(tl.int64)
        place = place * 0
    state_at = ((sequence.to(tl.int64) * heads + head) * rows + row) * columns * SIZE
    S = zeros(BLOCK_ROWS, BLOCK_COLUMNS, COMPLEX)
    if start_ptr is not None:
        S = scaled(load(start_ptr, state_at, in_rows, column, columns, COMPLEX), 1.0, COMPLEX)
    number = tl.cdiv(end - begin, CHUNK)
    step = 1
    if REVERSE:
        chunk += number - 1
        begin += (number - 1) * CHUNK
        step = -1
    for _ in range(0, number):
        at = ((chunk * heads + head) * SIZE * rows + row) * columns
        size = (chunk * 0 + rows) * columns
        store_planes(states_ptr, at, in_rows, column, columns, size, S, COMPLEX)
        time = begin + tl.arange(0, CHUNK)
        inside = time < end
        token = (place * length + time) * heads + head
        sums = running_sums(decay_ptr, offsets(place, time, head, decay_strides), inside, CHUNK)
        key = load(key_ptr, offsets(place, time, head, key_strides), inside, column, columns, COMPLEX)
        value_at = offsets(place, time, head, value_strides)
        if DELTA:
            in_place = load_planes(u_ptr, token * rows, inside, row, rows, count * rows, COMPLEX)
            w = load_planes(w_ptr, token * columns, inside, column, columns, count * columns, COMPLEX)
            turned = transposed(as_operand(S, DTYPE, COMPLEX), COMPLEX)
            read = zeros(CHUNK, BLOCK_ROWS, COMPLEX)
            if REVERSE:
                k = load(k_ptr, offsets(place, time, head, k_strides), inside, column, columns, COMPLEX)
                read = dot(k, turned, read, False, False, COMPLEX, PRECISION)
                read = scaled(read, until_end(sums)[:, None], COMPLEX)
                new = added(scaled(in_place, 1.0, COMPLEX), read, 1, COMPLEX)
            else:
                read = dot(w, turned, read, False, False, COMPLEX, PRECISION)
                new = added(scaled(in_place, 1.0, COMPLEX), read, -1, COMPLEX)
            store_planes(u_ptr, token * rows, inside, row, rows, count * rows, new, COMPLEX)
        S = scaled(S, whole(sums), COMPLEX)
        if REVERSE:
            value = load(value_ptr, value_at, inside, row, rows, COMPLEX)
            value = scaled(value, since_start(sums)[:, None], COMPLEX)
            if DELTA:
                removed = transposed(as_operand(scaled(new, -1.0, COMPLEX), DTYPE, COMPLEX), COMPLEX)
                S = dot(removed, w, S, False, True, COMPLEX, PRECISION)
        elif DELTA:
            value = scaled(new, until_end(sums)[:, None], COMPLEX)
        else:
            beta = strengths(beta_ptr, offsets(place, time, head, beta_strides), inside, CHUNK)
            value = load(value_ptr, value_at, inside, row, rows, COMPLEX)
            value = scaled(value, (beta * until_end(sums))[:, None], COMPLEX)
        value = transposed(as_operand(value, DTYPE, COMPLEX), COMPLEX)
        S = dot(value, key, S, False, True, COMPLEX, PRECISION)
        chunk += step
        begin += step * CHUNK
    store(final_ptr, state_at, in_rows, column, columns, S, COMPLEX)


@triton.jit
def read_kernel(
    query_ptr, key_ptr, value_ptr, beta_ptr, decay_ptr, u_ptr, states_ptr, out_ptr, v_ptr, grad_beta_ptr,
    offsets_ptr, first_ptr, sequence_ptr,
    query_strides, key_strides, value_strides, beta_strides, decay_strides, v_strides,
    length, chunks, heads, tokens, rows, columns,
    DELTA: tl.constexpr, REVERSE: tl.constexpr, COLUMN_BLOCKS: tl.constexpr, COMPLEX: tl.constexpr,
    PRECISION: tl.constexpr, CHUNK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """What a chunk reads; or, back in time, what its reads say of what was written."""
    # BLOCK_ROWS columns of Y = e^s Q Sᵀ + (Q Kᴴ ⊙ G) U, with U = βV of Hebb's rule and from u of the delta
    # rule. REVERSE, with query K, key Q and value dY, (Q Kᴴ ⊙ G)ᴴ dY: for the delta rule that alone, into u;
    # for Hebb's all of dU, with the states dS, from which come dV = β dU and this block's part of dβ.
    head = tl.program_id(1).to(tl.int64)
    place, begin, end = chunk_bounds(offsets_ptr, first_ptr, sequence_ptr, length, chunks, CHUNK)
    time = begin + tl.arange(0, CHUNK)
    inside = time < end
    row = tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    DTYPE: tl.constexpr = query_ptr.dtype.element_ty
    token = (place * length + time) * heads + head
    count = place * 0 + tokens
    sums = running_sums(decay_ptr, offsets(place, time, head, decay_strides), inside, CHUNK)
    beta = strengths(beta_ptr, offsets(place, time, head, beta_strides), inside, CHUNK)
    query_at = offsets(place, time, head, query_strides)
    key_at = offsets(place, time, head, key_strides)
    state_at = ((tl.program_id(0).to(tl.int64) * heads + head) * SIZE * rows + row) * columns
    scores = zeros(CHUNK, CHUNK, COMPLEX)
    out = zeros(CHUNK, BLOCK_ROWS, COMPLEX)
    for block in tl.static_range(COLUMN_BLOCKS):
        column = block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        query = load(query_ptr, query_at, inside, column, columns, COMPLEX)
        key = transposed(load(key_ptr, key_at, inside, column, columns, COMPLEX), COMPLEX)
        scores = dot(query, key, scores, False, True, COMPLEX, PRECISION)
        if states_ptr is not None:
            size = (place * 0 + rows) * columns
            S = load_planes(states_ptr, state_at, row < rows, column, columns, size, COMPLEX)
            out = dot(query, transposed(S, COMPLEX), out, False, False, COMPLEX, PRECISION)
    factor = until_end(sums) if REVERSE else since_start(sums)
    out = scaled(out, factor[:, None], COMPLEX)
    scores = as_operand(scaled(scores, between(sums, CHUNK, False, REVERSE), COMPLEX), DTYPE, COMPLEX)
    if DELTA and not REVERSE:
        value = load_planes(u_ptr, token * rows, inside, row, rows, count * rows, COMPLEX)
    else:
        value = load(value_ptr, offsets(place, time, head, value_strides), inside, row, rows, COMPLEX)
        if not REVERSE:
            value = as_operand(scaled(value, beta[:, None], COMPLEX), DTYPE, COMPLEX)
    out = dot(scores, value, out, False, False, COMPLEX, PRECISION)
    if DELTA and REVERSE:
        store_planes(u_ptr, token * rows, inside, row, rows, count * rows, out, COMPLEX)
    else:
        if REVERSE:
            if grad_beta_ptr is not None:
                v = load(v_ptr, offsets(place, time, head, v_strides), inside, row, rows, COMPLEX)
                part = tl.program_id(2) * count + token
                tl.store(grad_beta_ptr + part, inner(v, out, COMPLEX), mask=inside)
            out = scaled(out, beta[:, None], COMPLEX)
        store(out_ptr, token * rows * SIZE, inside, row, rows, out, COMPLEX)
