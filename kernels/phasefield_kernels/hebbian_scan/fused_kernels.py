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
    tile_of,
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
    for block in range(COLUMN_BLOCKS):
        column0 = block * BLOCK_COLUMNS
        column = column0 + tl.arange(0, BLOCK_COLUMNS)
        k = load(k_ptr, k_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
        A = dot(k, transposed(k, COMPLEX), A, False, True, COMPLEX, PRECISION)
    A = scaled(A, between(sums, CHUNK, True, False) * beta[:, None], COMPLEX)
    M = as_operand(inverse(A, CHUNK, COMPLEX, INVERSE), DTYPE, COMPLEX)
    if m_ptr is not None:
        step = tl.arange(0, CHUNK)
        store_planes(m_ptr, token * CHUNK, inside, step, CHUNK, count * CHUNK, M, COMPLEX)
    strength = beta * since_start(sums)
    for block in range(COLUMN_BLOCKS):
        column0 = block * BLOCK_COLUMNS
        column = column0 + tl.arange(0, BLOCK_COLUMNS)
        k = load(k_ptr, k_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
        k = as_operand(scaled(k, strength[:, None], COMPLEX), DTYPE, COMPLEX)
        W = dot(M, k, zeros(CHUNK, BLOCK_COLUMNS, COMPLEX), False, False, COMPLEX, PRECISION)
        store_planes(w_ptr, token * columns, inside, column, columns, count * columns, W, COMPLEX)
    for block in range(ROW_BLOCKS):
        row0 = block * BLOCK_ROWS
        row = row0 + tl.arange(0, BLOCK_ROWS)
        v = load(v_ptr, v_at, inside, row0, rows, BLOCK_ROWS, COMPLEX)
        v = as_operand(scaled(v, beta[:, None], COMPLEX), DTYPE, COMPLEX)
        U = dot(M, v, zeros(CHUNK, BLOCK_ROWS, COMPLEX), False, False, COMPLEX, PRECISION)
        store_planes(u_ptr, token * rows, inside, row, rows, count * rows, U, COMPLEX)


@triton.jit
def _read_tile(
    tile, read, k_ptr, w_ptr, states_ptr, k_at, w_at, at, inside, in_rows, column0, columns, w_plane, plane,
    DELTA: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    # Stores a tile of S and adds what it contributes to W Sᵀ (REVERSE: K Sᵀ).
    column = column0 + tl.arange(0, BLOCK_COLUMNS)
    tile = as_operand(tile, states_ptr.dtype.element_ty, COMPLEX)
    store_planes(states_ptr, at, in_rows, column, columns, plane, tile, COMPLEX)
    if DELTA:
        if REVERSE:
            reading = load(k_ptr, k_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
        else:
            reading = load_planes(w_ptr, w_at, inside, column, columns, w_plane, COMPLEX)
        read = dot(reading, transposed(tile, COMPLEX), read, False, False, COMPLEX, PRECISION)
    return read


@triton.jit
def _moved_tile(
    tile, kept, value, new, key_ptr, w_ptr, key_at, w_at, inside, column0, columns, w_plane,
    DELTA: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    # A tile of S moved over a chunk: valueᵀ conj(key) is added (REVERSE, delta: less newᵀ conj(W)).
    tile = scaled(tile, kept, COMPLEX)
    key = load(key_ptr, key_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
    tile = dot(value, key, tile, False, True, COMPLEX, PRECISION)
    if DELTA and REVERSE:
        column = column0 + tl.arange(0, BLOCK_COLUMNS)
        removed = as_operand(scaled(new, -1.0, COMPLEX), w_ptr.dtype.element_ty, COMPLEX)
        w = load_planes(w_ptr, w_at, inside, column, columns, w_plane, COMPLEX)
        tile = dot(transposed(removed, COMPLEX), w, tile, False, True, COMPLEX, PRECISION)
    return tile


@triton.jit
def state_kernel(
    key_ptr, value_ptr, beta_ptr, decay_ptr, u_ptr, w_ptr, k_ptr, start_ptr, states_ptr, final_ptr,
    offsets_ptr, first_ptr, key_strides, value_strides, beta_strides, decay_strides, k_strides,
    length, chunks, heads, tokens, rows, columns,
    DELTA: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr,
    RESIDENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """States from chunk to chunk, forward, or their gradients backward."""
    # BLOCK_ROWS rows of S and BLOCKS tiles of columns: writes S as it is before each chunk, and at last. Key
    # and value are K and V, and u holds U₀, which becomes U (for that W is read with whole rows of S: all
    # tiles). REVERSE, the same for dS: from the last chunk to the first with Q and dY, where u holds
    # (Q Kᴴ ⊙ G)ᴴ dY, which becomes dU. RESIDENT, S is in registers; else, for rows too wide, where it ends.
    sequence = tl.program_id(0) // heads
    head = (tl.program_id(0) % heads).to(tl.int64)
    row0 = tl.program_id(1) * BLOCK_ROWS
    row = row0 + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    first_column = tl.program_id(2) * BLOCKS * BLOCK_COLUMNS
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
    S = ()
    for block in tl.static_range(BLOCKS):
        column0 = first_column + block * BLOCK_COLUMNS
        tile = zeros(BLOCK_ROWS, BLOCK_COLUMNS, COMPLEX)
        if start_ptr is not None:
            tile = load(start_ptr, state_at, in_rows, column0, columns, BLOCK_COLUMNS, COMPLEX)
        if RESIDENT:
            S = S + scaled(tile, 1.0, COMPLEX)
        else:
            store(final_ptr, state_at, in_rows, column0, columns, tile, BLOCK_COLUMNS, COMPLEX)
    number = tl.cdiv(end - begin, CHUNK)
    step = 1
    if REVERSE:
        chunk += number - 1
        begin += (number - 1) * CHUNK
        step = -1
    for _ in range(0, number):
        at = ((chunk * heads + head) * SIZE * rows + row) * columns
        size = (chunk * 0 + rows) * columns
        time = begin + tl.arange(0, CHUNK)
        inside = time < end
        token = (place * length + time) * heads + head
        sums = running_sums(decay_ptr, offsets(place, time, head, decay_strides), inside, CHUNK)
        if not RESIDENT:
            tl.debug_barrier()  # what other threads of this program stored is there
        key_at = offsets(place, time, head, key_strides)
        k_at = offsets(place, time, head, k_strides)
        w_at = token * columns
        read = zeros(CHUNK, BLOCK_ROWS, COMPLEX)
        if RESIDENT:
            for block in tl.static_range(BLOCKS):
                read = _read_tile(
                    tile_of(S, block, COMPLEX),
                    read, k_ptr, w_ptr, states_ptr, k_at, w_at, at, inside, in_rows,
                    first_column + block * BLOCK_COLUMNS, columns, count * columns, size,
                    DELTA, REVERSE, COMPLEX, PRECISION, BLOCK_COLUMNS,
                )  # fmt: skip
        else:
            for column0 in range(0, BLOCKS * BLOCK_COLUMNS, BLOCK_COLUMNS):
                tile = load(final_ptr, state_at, in_rows, column0, columns, BLOCK_COLUMNS, COMPLEX)
                read = _read_tile(
                    tile, read, k_ptr, w_ptr, states_ptr, k_at, w_at, at, inside, in_rows,
                    column0, columns, count * columns, size,
                    DELTA, REVERSE, COMPLEX, PRECISION, BLOCK_COLUMNS,
                )  # fmt: skip
        if DELTA:
            new = load_planes(u_ptr, token * rows, inside, row, rows, count * rows, COMPLEX)
            if REVERSE:
                read = scaled(read, until_end(sums)[:, None], COMPLEX)
                new = added(scaled(new, 1.0, COMPLEX), read, 1, COMPLEX)
            else:
                new = added(scaled(new, 1.0, COMPLEX), read, -1, COMPLEX)
            store_planes(u_ptr, token * rows, inside, row, rows, count * rows, new, COMPLEX)
        if DELTA and not REVERSE:
            value = scaled(new, until_end(sums)[:, None], COMPLEX)
        else:
            if REVERSE:
                factor = since_start(sums)
            else:
                beta = strengths(beta_ptr, offsets(place, time, head, beta_strides), inside, CHUNK)
                factor = beta * until_end(sums)
            value_at = offsets(place, time, head, value_strides)
            value = load(value_ptr, value_at, inside, row0, rows, BLOCK_ROWS, COMPLEX)
            value = scaled(value, factor[:, None], COMPLEX)
        value = transposed(as_operand(value, DTYPE, COMPLEX), COMPLEX)
        if not DELTA:
            new = value
        if RESIDENT:
            after = ()
            for block in tl.static_range(BLOCKS):
                after = after + _moved_tile(
                    tile_of(S, block, COMPLEX), whole(sums), value, new, key_ptr, w_ptr, key_at, w_at, inside,
                    first_column + block * BLOCK_COLUMNS, columns, count * columns,
                    DELTA, REVERSE, COMPLEX, PRECISION, BLOCK_COLUMNS,
                )  # fmt: skip
            S = after
        else:
            for column0 in range(0, BLOCKS * BLOCK_COLUMNS, BLOCK_COLUMNS):
                tile = load(final_ptr, state_at, in_rows, column0, columns, BLOCK_COLUMNS, COMPLEX)
                tile = _moved_tile(
                    tile, whole(sums), value, new, key_ptr, w_ptr, key_at, w_at, inside,
                    column0, columns, count * columns,
                    DELTA, REVERSE, COMPLEX, PRECISION, BLOCK_COLUMNS,
                )  # fmt: skip
                store(final_ptr, state_at, in_rows, column0, columns, tile, BLOCK_COLUMNS, COMPLEX)
        chunk += step
        begin += step * CHUNK
    if RESIDENT:
        for block in tl.static_range(BLOCKS):
            column0 = first_column + block * BLOCK_COLUMNS
            tile = tile_of(S, block, COMPLEX)
            store(final_ptr, state_at, in_rows, column0, columns, tile, BLOCK_COLUMNS, COMPLEX)


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
    row0 = tl.program_id(2) * BLOCK_ROWS
    row = row0 + tl.arange(0, BLOCK_ROWS)
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
    for block in range(COLUMN_BLOCKS):
        column0 = block * BLOCK_COLUMNS
        column = column0 + tl.arange(0, BLOCK_COLUMNS)
        query = load(query_ptr, query_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX)
        key = transposed(load(key_ptr, key_at, inside, column0, columns, BLOCK_COLUMNS, COMPLEX), COMPLEX)
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
        value = load(
            value_ptr, offsets(place, time, head, value_strides), inside, row0, rows, BLOCK_ROWS, COMPLEX
        )
        if not REVERSE:
            value = as_operand(scaled(value, beta[:, None], COMPLEX), DTYPE, COMPLEX)
    out = dot(scores, value, out, False, False, COMPLEX, PRECISION)
    if DELTA and REVERSE:
        store_planes(u_ptr, token * rows, inside, row, rows, count * rows, out, COMPLEX)
    else:
        if REVERSE:
            if grad_beta_ptr is not None:
                v = load(
                    v_ptr, offsets(place, time, head, v_strides), inside, row0, rows, BLOCK_ROWS, COMPLEX
                )
                part = tl.program_id(2) * count + token
                tl.store(grad_beta_ptr + part, inner(v, out, COMPLEX), mask=inside)
            out = scaled(out, beta[:, None], COMPLEX)
        store(out_ptr, token * rows * SIZE, inside, row0, rows, out, BLOCK_ROWS, COMPLEX)
