"""Tiles of real or complex numbers in Triton kernels: a tuple of one part, or of the real and the imaginary.

Tensors of callers keep a complex number's parts side by side; what kernels hand to each other keeps them in
planes. Products of complex tiles are four real ones. Arithmetic is in float32; a tile is rounded to the
inputs' dtype where it is multiplied (``as_operand``).
"""

import triton
import triton.language as tl


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, COMPLEX: tl.constexpr):
    """A tile of zeros in float32."""
    tile = (tl.zeros((ROWS, COLUMNS), tl.float32),)
    if COMPLEX:
        tile = tile + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    return tile


@triton.jit
def load(ptr, at, inside, first, columns, BLOCK: tl.constexpr, COMPLEX: tl.constexpr):
    """BLOCK numbers, side by side, from ``first`` on, of rows that begin at ``at`` (in floats); 0 outside."""
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    column = first * SIZE + tl.arange(0, SIZE * BLOCK)
    mask = inside[:, None] & (column < columns * SIZE)[None, :]
    tile = (tl.load(ptr + at[:, None] + column[None, :], mask=mask, other=0.0),)
    if COMPLEX:
        tile = tl.split(tl.reshape(tile[0], (at.shape[0], BLOCK, 2)))
    return tile


@triton.jit
def store(ptr, at, inside, first, columns, tile, BLOCK: tl.constexpr, COMPLEX: tl.constexpr):
    """The inverse of :func:`load`."""
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    column = first * SIZE + tl.arange(0, SIZE * BLOCK)
    mask = inside[:, None] & (column < columns * SIZE)[None, :]
    value = tile[0].to(ptr.dtype.element_ty)
    if COMPLEX:
        value = tl.join(value, tile[1].to(ptr.dtype.element_ty))
        value = tl.reshape(value, (at.shape[0], 2 * BLOCK))
    tl.store(ptr + at[:, None] + column[None, :], value, mask=mask)


@triton.jit
def load_planes(ptr, at, inside, column, columns, plane, COMPLEX: tl.constexpr):
    """Rows that begin at ``at``, the imaginary parts ``plane`` further; 0 outside."""
    mask = inside[:, None] & (column < columns)[None, :]
    where = at[:, None] + column[None, :]
    tile = (tl.load(ptr + where, mask=mask, other=0.0),)
    if COMPLEX:
        tile = tile + (tl.load(ptr + plane + where, mask=mask, other=0.0),)
    return tile


@triton.jit
def store_planes(ptr, at, inside, column, columns, plane, tile, COMPLEX: tl.constexpr):
    """The inverse of :func:`load_planes`."""
    mask = inside[:, None] & (column < columns)[None, :]
    where = at[:, None] + column[None, :]
    tl.store(ptr + where, tile[0].to(ptr.dtype.element_ty), mask=mask)
    if COMPLEX:
        tl.store(ptr + plane + where, tile[1].to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def tile_of(tiles, number: tl.constexpr, COMPLEX: tl.constexpr):
    """One of several tiles, their parts one after the other in a tuple."""
    if COMPLEX:
        tile = (tiles[2 * number], tiles[2 * number + 1])
    else:
        tile = (tiles[number],)
    return tile


@triton.jit
def as_operand(tile, dtype: tl.constexpr, COMPLEX: tl.constexpr):
    """Rounded to the dtype of a product."""
    rounded = (tile[0].to(dtype),)
    if COMPLEX:
        rounded = rounded + (tile[1].to(dtype),)
    return rounded


@triton.jit
def transposed(tile, COMPLEX: tl.constexpr):
    """Rows as columns; nothing is conjugated."""
    turned = (tl.trans(tile[0]),)
    if COMPLEX:
        turned = turned + (tl.trans(tile[1]),)
    return turned


@triton.jit
def scaled(tile, factor, COMPLEX: tl.constexpr):
    """Times a real factor that broadcasts; in float32."""
    product = (tile[0].to(tl.float32) * factor,)
    if COMPLEX:
        product = product + (tile[1].to(tl.float32) * factor,)
    return product


@triton.jit
def added(a, b, SIGN: tl.constexpr, COMPLEX: tl.constexpr):
    """``a + SIGN · b``."""
    total = (a[0] + SIGN * b[0],)
    if COMPLEX:
        total = total + (a[1] + SIGN * b[1],)
    return total


@triton.jit
def dot(
    a, b, total, CONJ_A: tl.constexpr, CONJ_B: tl.constexpr, COMPLEX: tl.constexpr, PRECISION: tl.constexpr
):
    """``total + a b``, either factor conjugated if asked for."""
    real = tl.dot(a[0], b[0], total[0], input_precision=PRECISION)
    result = (real,)
    if COMPLEX:
        # (a + i σ a')(b + i τ b') = a b − σ τ a' b' + i (τ a b' + σ a' b): in each case one part is negated.
        if CONJ_A == CONJ_B:
            real = tl.dot(a[1], -b[1], real, input_precision=PRECISION)
        else:
            real = tl.dot(a[1], b[1], real, input_precision=PRECISION)
        if CONJ_B:
            imaginary = tl.dot(a[0], -b[1], total[1], input_precision=PRECISION)
        else:
            imaginary = tl.dot(a[0], b[1], total[1], input_precision=PRECISION)
        if CONJ_A:
            imaginary = tl.dot(-a[1], b[0], imaginary, input_precision=PRECISION)
        else:
            imaginary = tl.dot(a[1], b[0], imaginary, input_precision=PRECISION)
        result = (real, imaginary)
    return result


@triton.jit
def inner(a, b, COMPLEX: tl.constexpr):
    """``Re Σ conj(a) b`` along rows, in float32."""
    products = a[0].to(tl.float32) * b[0].to(tl.float32)
    if COMPLEX:
        products += a[1].to(tl.float32) * b[1].to(tl.float32)
    return tl.sum(products, 1)
