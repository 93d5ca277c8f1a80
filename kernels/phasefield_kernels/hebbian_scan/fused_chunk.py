"""Chunks in Triton kernels: where they lie, the decays inside, and the inverse of the delta rule."""

import triton
import triton.language as tl

from .fused_tiles import dot, zeros

_VANISHED = tl.constexpr(-200.0)  # exp of it is 0 in float32
_GRAIN = tl.constexpr(64.0)


@triton.jit
def chunk_bounds(offsets_ptr, first_ptr, sequence_ptr, length, chunks, CHUNK: tl.constexpr):
    """(place in memory, first step, end) of the chunk of this program, int64; empty if there is none.

    Packed, ``first`` holds the number of each sequence's first chunk, ``sequence`` each chunk's sequence.
    """
    chunk = tl.program_id(0)
    if offsets_ptr is not None:
        sequence = tl.load(sequence_ptr + chunk)
        place = sequence.to(tl.int64) * 0
        end = tl.load(offsets_ptr + sequence + 1).to(tl.int64)
        begin = tl.load(offsets_ptr + sequence).to(tl.int64)
        begin += (chunk - tl.load(first_ptr + sequence)).to(tl.int64) * CHUNK
    else:
        place = (chunk // chunks).to(tl.int64)
        begin = (chunk % chunks).to(tl.int64) * CHUNK
        end = begin * 0 + length
    return place, begin, tl.minimum(begin + CHUNK, end)


@triton.jit
def offsets(place, time, head, strides):
    """Where tokens lie in a tensor ``[B, T, H, …]`` with these strides of batch, time and head."""
    return place * strides[0] + time * strides[1] + head * strides[2]


@triton.jit
def strengths(beta_ptr, at, inside, CHUNK: tl.constexpr):
    """β of a chunk's tokens; 1 if there is none."""
    if beta_ptr is None:
        beta = tl.full((CHUNK,), 1.0, tl.float32)
    else:
        beta = tl.load(beta_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return beta


@triton.jit
def running_sums(decay_ptr, at, inside, CHUNK: tl.constexpr):
    """Sums of log γ in a chunk up to each step, and the whole, as (coarse, fine, coarse end, fine end).

    Coarse parts are multiples of 1/64 and summed exactly, so that the difference of two sums is right to a
    rounding even after a decay to nothing.
    """
    if decay_ptr is None:
        logs = tl.zeros((CHUNK,), tl.float32)
    else:
        logs = tl.load(decay_ptr + at, mask=inside, other=0.0).to(tl.float32)
    logs = tl.maximum(logs, _VANISHED)
    coarse = tl.floor(logs * _GRAIN + 0.5) / _GRAIN
    fine = logs - coarse
    return tl.cumsum(coarse, 0), tl.cumsum(fine, 0), tl.sum(coarse, 0), tl.sum(fine, 0)


@triton.jit
def since_start(sums):
    """``e^{s_i}``: the decay over steps 0 … i."""
    return tl.exp(sums[0] + sums[1])


@triton.jit
def until_end(sums):
    """``e^{s_end − s_j}``: the decay over steps j + 1 … end."""
    return tl.exp((sums[2] - sums[0]) + (sums[3] - sums[1]))


@triton.jit
def whole(sums):
    """``e^{s_end}``."""
    return tl.exp(sums[2] + sums[3])


@triton.jit
def between(sums, CHUNK: tl.constexpr, STRICT: tl.constexpr, REVERSE: tl.constexpr):
    """``e^{s_i − s_j}`` for j ≤ i (j < i if STRICT), else 0; REVERSE, ``e^{s_j − s_i}`` for j ≥ i (j > i)."""
    token = tl.arange(0, CHUNK)
    steps = token[:, None] - token[None, :]
    exponent = (sums[0][:, None] - sums[0][None, :]) + (sums[1][:, None] - sums[1][None, :])
    if REVERSE:
        steps = -steps
        exponent = -exponent
    if STRICT:
        steps = steps - 1
    return tl.exp(tl.where(steps >= 0, exponent, float("-inf")))


@triton.jit
def _merged(X, A, SIZE: tl.constexpr, CHUNK: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr):
    # Inverses of diagonal blocks of SIZE made those of 2 · SIZE: X − X A' X with A' the blocks between.
    token = tl.arange(0, CHUNK)
    row = token[:, None]
    column = token[None, :]
    between_blocks = (row // (2 * SIZE) == column // (2 * SIZE)) & (row // SIZE > column // SIZE)
    off = (tl.where(between_blocks, -A[0], 0.0),)
    if COMPLEX:
        off = off + (tl.where(between_blocks, -A[1], 0.0),)
    left = dot(X, off, zeros(CHUNK, CHUNK, COMPLEX), False, False, COMPLEX, PRECISION)
    return dot(left, X, X, False, False, COMPLEX, PRECISION)


@triton.jit
def _block_diagonal(block, CHUNK: tl.constexpr):
    # [CHUNK / 16, 16, 16] as a [CHUNK, CHUNK].
    number = tl.arange(0, CHUNK // 16)
    same = (number[:, None] == number[None, :])[:, None, :, None]
    return tl.reshape(tl.where(same, block[:, :, None, :], 0.0), (CHUNK, CHUNK))


@triton.jit
def _diagonal_blocks(A, CHUNK: tl.constexpr):
    # The inverse of _block_diagonal.
    number = tl.arange(0, CHUNK // 16)
    same = (number[:, None] == number[None, :])[:, None, :, None]
    return tl.sum(tl.where(same, tl.reshape(A, (CHUNK // 16, 16, CHUNK // 16, 16)), 0.0), 2)


@triton.jit
def inverse(A, CHUNK: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr):
    """``(1 + A)⁻¹`` of a strictly lower triangular A, in float32.

    Diagonal blocks of 16 by forward substitution, row x_i = e_i − Σ_{j<i} a_ij x_j, all blocks at once; then
    pairs of blocks merged by products. Powers of A, which would need no substitution, cancel: for keys that
    repeat they grow like binomial coefficients.
    """
    row = tl.arange(0, 16)
    d = _diagonal_blocks(A[0], CHUNK)
    x = tl.where((row[:, None] == row[None, :])[None, :, :], 1.0, tl.zeros_like(d))
    if COMPLEX:
        d_imaginary = _diagonal_blocks(A[1], CHUNK)
        x_imaginary = tl.zeros_like(d)
    for i in range(1, 16):
        here = (row == i)[None, :, None]
        a = tl.sum(tl.where(here, d, 0.0), 1)[:, :, None]
        if COMPLEX:
            a_imaginary = tl.sum(tl.where(here, d_imaginary, 0.0), 1)[:, :, None]
            new = tl.sum(a * x - a_imaginary * x_imaginary, 1)[:, None, :]
            new_imaginary = tl.sum(a * x_imaginary + a_imaginary * x, 1)[:, None, :]
            x_imaginary = tl.where(here, x_imaginary - new_imaginary, x_imaginary)
        else:
            new = tl.sum(a * x, 1)[:, None, :]
        x = tl.where(here, x - new, x)
    X = (_block_diagonal(x, CHUNK),)
    if COMPLEX:
        X = X + (_block_diagonal(x_imaginary, CHUNK),)
    if CHUNK >= 32:
        X = _merged(X, A, 16, CHUNK, COMPLEX, PRECISION)
    if CHUNK >= 64:
        X = _merged(X, A, 32, CHUNK, COMPLEX, PRECISION)
    return X
