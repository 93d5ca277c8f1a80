"""Complex matrix products in Triton, as real ones: pairs stay interleaved, nothing is shuffled in the loop.

A complex row of K numbers is a real row of 2K floats, and stays on asynchronous 16-byte copies. The other
operand is *structured* once a call (:mod:`.fused_operands`): a complex number w becomes the 2 · 2 block that
multiplies by it, so ``y = W x`` is one real product ``[M, 2K] · [2K, 2N]`` whose output is interleaved
again. Where rows are summed over (the gradient of a weight), both operands are read as they are: the real
product ``[2N, M] · [M, 2K]`` holds every combination of parts, and the epilogue adds those that belong
together (:func:`_folded_kernel`). Either way the tensor cores do the four multiplications of a complex
product and no more. :func:`_gauss_kernel` does three, on sums formed beforehand.

A program owns one tile of the output, in order of groups of GROUP tile rows, so that neighbouring programs
share operands in the cache. Batches have two dimensions with strides of their own: 0 broadcasts.
"""

import triton
import triton.language as tl

EPSILON_SQUARED = tl.constexpr(1e-8)
"""Of modReLU's modulus ``√(|z|² + ε²)``; ε = 1e-4."""


@triton.jit
def _tile(rows, columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    # (batch, first row, first column) of this program's tile; in 32 bits, where division is cheap.
    tile_rows = tl.cdiv(rows, BLOCK_ROWS)
    tile_columns = tl.cdiv(columns, BLOCK_COLUMNS)
    tiles = tile_rows * tile_columns
    program = tl.program_id(0)
    tile = program % tiles
    width = GROUP * tile_columns
    first = (tile // width) * GROUP
    height = tl.minimum(tile_rows - first, GROUP)
    row = first + (tile % width) % height
    column = (tile % width) // height
    return program // tiles, row * BLOCK_ROWS, column * BLOCK_COLUMNS


@triton.jit
def _interleaved(real, imaginary, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.reshape(tl.join(real, imaginary), (ROWS, COLUMNS))


@triton.jit
def _store_activated(
    real, imaginary, bias_ptr, threshold_ptr, residual_ptr, out_ptr, saved_ptr,
    base, first_row, first_column, rows, columns,
    SWAPPED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    # A tile of pre-activations, [BLOCK_ROWS, BLOCK_COLUMNS / 2] twice: bias, modReLU, residual, store.
    # Rows are tokens and columns (unit, part); SWAPPED, rows are units and columns (token, part). Of the
    # pre-activation what the backward needs is saved in the output's dtype: 0 stands for "under the
    # threshold", decided here in float32, and a live 0 becomes the dtype's smallest number.
    row = first_row + tl.arange(0, BLOCK_ROWS)
    pair = first_column // 2 + tl.arange(0, BLOCK_COLUMNS // 2)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)
    if SWAPPED:
        unit = row
        known = row < rows
        at = (column // 2)[None, :].to(tl.int64) * (2 * rows) + 2 * row[:, None] + (column % 2)[None, :]
    else:
        unit = pair
        known = 2 * pair < columns
        at = row[:, None].to(tl.int64) * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at += base
    if bias_ptr is not None:
        part = tl.arange(0, 2)
        bias = tl.load(bias_ptr + 2 * unit[:, None] + part[None, :], mask=known[:, None], other=0.0)
        bias_real, bias_imaginary = tl.split(bias.to(tl.float32))
        if SWAPPED:
            real += bias_real[:, None]
            imaginary += bias_imaginary[:, None]
        else:
            real += bias_real[None, :]
            imaginary += bias_imaginary[None, :]
    if threshold_ptr is not None:
        threshold = tl.load(threshold_ptr + unit, mask=known, other=0.0).to(tl.float32)
        modulus = tl.sqrt(real * real + imaginary * imaginary + EPSILON_SQUARED)
        if SWAPPED:
            above = modulus + threshold[:, None]
        else:
            above = modulus + threshold[None, :]
        if saved_ptr is not None:
            live = above > 0
            kept_real = tl.where(live, real, 0.0).to(saved_ptr.dtype.element_ty)
            kept_imaginary = tl.where(live, imaginary, 0.0).to(saved_ptr.dtype.element_ty)
            smallest = 6e-8 if saved_ptr.dtype.element_ty == tl.float16 else 1.2e-38
            vanished = live & (kept_real == 0) & (kept_imaginary == 0)
            kept_real = tl.where(vanished, smallest, kept_real.to(tl.float32))
            kept = _interleaved(kept_real, kept_imaginary.to(tl.float32), BLOCK_ROWS, BLOCK_COLUMNS)
            tl.store(saved_ptr + at, kept.to(saved_ptr.dtype.element_ty), mask=inside)
        # NaN stays NaN: max would drop it.
        scale = tl.where(above <= 0, 0.0, above) / modulus
        real *= scale
        imaginary *= scale
    value = _interleaved(real, imaginary, BLOCK_ROWS, BLOCK_COLUMNS)
    if residual_ptr is not None:
        value += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _product_kernel(
    a_ptr, b_ptr, bias_ptr, threshold_ptr, residual_ptr, out_ptr, saved_ptr,
    rows, columns, inner, within, a_outer, a_within, a_row, b_outer, b_within,
    SWAPPED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Real [rows, inner] (interleaved, rows a_row apart) times the structured [columns, inner].
    batch, first_row, first_column = _tile(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS, GROUP)
    outer = (batch // within).to(tl.int64)
    batch_within = (batch % within).to(tl.int64)
    row = first_row + tl.arange(0, BLOCK_ROWS)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)
    k = tl.arange(0, BLOCK_INNER)
    a_at = a_ptr + outer * a_outer + batch_within * a_within
    a_at = a_at + row[:, None].to(tl.int64) * a_row + k[None, :]
    b_at = b_ptr + outer * b_outer + batch_within * b_within
    b_at = b_at + column[None, :].to(tl.int64) * inner + k[:, None]
    in_rows = (row < rows)[:, None]
    in_columns = (column < columns)[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for done in range(0, inner, BLOCK_INNER):
        a = tl.load(a_at, mask=in_rows & (k < inner - done)[None, :], other=0.0)
        b = tl.load(b_at, mask=in_columns & (k < inner - done)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        a_at += BLOCK_INNER
        b_at += BLOCK_INNER
    real, imaginary = tl.split(tl.reshape(total, (BLOCK_ROWS, BLOCK_COLUMNS // 2, 2)))
    base = batch.to(tl.int64) * rows * columns
    _store_activated(
        real, imaginary, bias_ptr, threshold_ptr, residual_ptr, out_ptr, saved_ptr,
        base, first_row, first_column, rows, columns, SWAPPED, BLOCK_ROWS, BLOCK_COLUMNS,
    )  # fmt: skip


@triton.jit
def _gauss_kernel(
    a_ptr, b_ptr, bias_ptr, threshold_ptr, residual_ptr, out_ptr, saved_ptr,
    rows, columns, inner, within, a_outer, a_within, a_plane, b_outer, b_within, b_plane,
    PRECISION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Planes of the left operand, (a + a', a, a') for a + i a', and of the right, (b, b' − b, b + b'):
    #   T₁ = (a + a') b,   T₂ = a (b' − b),   T₃ = a' (b + b');     real T₁ − T₃,   imaginary T₁ + T₂
    # Complex [rows, inner] times [columns / 2, inner]; `columns` counts floats of the output.
    batch, first_row, first_column = _tile(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS, GROUP)
    outer = (batch // within).to(tl.int64)
    batch_within = (batch % within).to(tl.int64)
    row = first_row + tl.arange(0, BLOCK_ROWS)
    pair = first_column // 2 + tl.arange(0, BLOCK_COLUMNS // 2)
    k = tl.arange(0, BLOCK_INNER)
    a_at = a_ptr + outer * a_outer + batch_within * a_within
    a_at = a_at + row[:, None].to(tl.int64) * inner + k[None, :]
    b_at = b_ptr + outer * b_outer + batch_within * b_within
    b_at = b_at + pair[None, :].to(tl.int64) * inner + k[:, None]
    in_rows = (row < rows)[:, None]
    in_columns = (2 * pair < columns)[None, :]
    first = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS // 2), tl.float32)
    second = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS // 2), tl.float32)
    third = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS // 2), tl.float32)
    for done in range(0, inner, BLOCK_INNER):
        a_mask = in_rows & (k < inner - done)[None, :]
        b_mask = in_columns & (k < inner - done)[:, None]
        a = tl.load(a_at, mask=a_mask, other=0.0)
        b = tl.load(b_at, mask=b_mask, other=0.0)
        first = tl.dot(a, b, first, input_precision=PRECISION)
        a = tl.load(a_at + a_plane, mask=a_mask, other=0.0)
        b = tl.load(b_at + b_plane, mask=b_mask, other=0.0)
        second = tl.dot(a, b, second, input_precision=PRECISION)
        a = tl.load(a_at + 2 * a_plane, mask=a_mask, other=0.0)
        b = tl.load(b_at + 2 * b_plane, mask=b_mask, other=0.0)
        third = tl.dot(a, b, third, input_precision=PRECISION)
        a_at += BLOCK_INNER
        b_at += BLOCK_INNER
    base = batch.to(tl.int64) * rows * columns
    _store_activated(
        first - third, first + second, bias_ptr, threshold_ptr, residual_ptr, out_ptr, saved_ptr,
        base, first_row, first_column, rows, columns, False, BLOCK_ROWS, BLOCK_COLUMNS,
    )  # fmt: skip


@triton.jit
def _folded_kernel(
    a_ptr, b_ptr, out_ptr,
    rows, columns, inner, splits, piece, within, a_outer, a_within, a_inner, b_outer, b_within, b_inner,
    SIGN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Σ_m of one operand times the conjugate of the other, both interleaved along the output's dimensions:
    # R = aᵀ b is real, [rows = 2N, inner] · [inner, columns = 2K], and with its 2 · 2 blocks (p q; r s)
    #   Re = p + s,     Im = r − q for a conj(b) (SIGN 1),  q − r for conj(a) b (SIGN −1).
    # The sum is cut into `splits` pieces of `piece` terms, each a program and an output of its own.
    batch, first_row, first_column = _tile(rows, columns, BLOCK_ROWS, BLOCK_COLUMNS, GROUP)
    split = batch % splits
    matrix = batch // splits
    outer = (matrix // within).to(tl.int64)
    batch_within = (matrix % within).to(tl.int64)
    start = split * piece
    count = tl.minimum(inner - start, piece)
    row = first_row + tl.arange(0, BLOCK_ROWS)
    column = first_column + tl.arange(0, BLOCK_COLUMNS)
    k = tl.arange(0, BLOCK_INNER)
    a_at = a_ptr + outer * a_outer + batch_within * a_within + start.to(tl.int64) * a_inner
    a_at = a_at + row[:, None] + k[None, :].to(tl.int64) * a_inner
    b_at = b_ptr + outer * b_outer + batch_within * b_within + start.to(tl.int64) * b_inner
    b_at = b_at + column[None, :] + k[:, None].to(tl.int64) * b_inner
    step = tl.full((), BLOCK_INNER, tl.int64)
    in_rows = (row < rows)[:, None]
    in_columns = (column < columns)[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for done in range(0, count, BLOCK_INNER):
        a = tl.load(a_at, mask=in_rows & (k < count - done)[None, :], other=0.0)
        b = tl.load(b_at, mask=in_columns & (k < count - done)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        a_at += step * a_inner
        b_at += step * b_inner
    blocks = tl.reshape(total, (BLOCK_ROWS // 2, 2, BLOCK_COLUMNS // 2, 2))
    left, right = tl.split(tl.permute(blocks, (0, 2, 1, 3)))
    p, r = tl.split(left)
    q, s = tl.split(right)
    value = _interleaved(p + s, SIGN * (r - q), BLOCK_ROWS // 2, BLOCK_COLUMNS)
    unit = first_row // 2 + tl.arange(0, BLOCK_ROWS // 2)
    at = batch.to(tl.int64) * (rows // 2) * columns + unit[:, None].to(tl.int64) * columns + column[None, :]
    inside = (2 * unit < rows)[:, None] & in_columns
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=inside)
