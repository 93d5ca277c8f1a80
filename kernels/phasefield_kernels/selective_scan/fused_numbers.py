"""Real and complex states in selective_scan's kernels: tiles ``[STATES, BLOCK]`` of a program's lanes.

Tiles lie in registers as they do in memory: four neighbouring states to a thread, a lane's others to threads
beside it. So loads are wide, and sums over states, like those over lanes, exchange few values. A complex tile
is its real and its imaginary part; of a real one the second part is never looked at. A's
real part comes multiplied by log2(e): exp2 is one instruction, exp that and a multiplication.
"""

import triton
import triton.language as tl

from ..fused_math import sincos, softplus

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def wide(number: tl.constexpr):
    """A constant of 64 bits, for pointers: several added up as 32 bits could overflow."""
    return tl.full((), number, tl.int64)


@triton.jit
def load_raw(at, mask, COMPLEX: tl.constexpr):
    """Numbers as they lie in memory at a vector or tile of addresses; a complex one's parts side by side."""
    if COMPLEX:
        axis: tl.constexpr = len(at.shape)
        both = tl.expand_dims(at, axis) + _parts(axis)
        return tl.split(tl.load(both, mask=tl.expand_dims(mask, axis), other=0.0))
    real = tl.load(at, mask=mask, other=0.0)
    return real, real


@triton.jit
def store_numbers(at, real, imaginary, mask, COMPLEX: tl.constexpr):
    """The inverse of :func:`load_raw`, rounding to what lies there."""
    value = real
    if COMPLEX:
        axis: tl.constexpr = len(at.shape)
        value = tl.join(real, imaginary)
        at = tl.expand_dims(at, axis) + _parts(axis)
        mask = tl.expand_dims(mask, axis)
    tl.store(at, value.to(at.dtype.element_ty), mask=mask)


@triton.jit
def _parts(axis: tl.constexpr):
    # 0 and 1 along a last axis.
    parts = tl.arange(0, 2).to(tl.int64)[None, :]
    return parts[None, :, :] if axis == 2 else parts


@triton.jit
def load_numbers(at, mask, COMPLEX: tl.constexpr):
    """Numbers in float32."""
    real, imaginary = load_raw(at, mask, COMPLEX)
    return real.to(tl.float32), imaginary.to(tl.float32)


@triton.jit
def load_rates(at, mask, COMPLEX: tl.constexpr):
    """A, its real part times log2(e)."""
    real, imaginary = load_numbers(at, mask, COMPLEX)
    return real * LOG2_E, imaginary


@triton.jit
def load_step_size(dt, bias, inside, SOFTPLUS: tl.constexpr):
    """(Δ, dΔ/ddt); Δ is 0 past the end of a row, where nothing moves any more."""
    delta = dt.to(tl.float32) + bias
    slope = tl.full(delta.shape, 1.0, tl.float32)
    if SOFTPLUS:
        delta, slope = softplus(delta)
    return tl.where(inside, delta, 0.0), slope


@triton.jit
def factors(delta, A_real, A_imaginary, COMPLEX: tl.constexpr):
    """exp(Δ A)."""
    real = tl.exp2(delta[None, :] * A_real)
    imaginary = real
    if COMPLEX:
        sine, cosine = sincos(delta[None, :] * A_imaginary)
        imaginary = real * sine
        real = real * cosine
    return real, imaginary


@triton.jit
def times(a_real, a_imaginary, b_real, b_imaginary, COMPLEX: tl.constexpr):
    """The product a · b."""
    real = a_real * b_real
    imaginary = real
    if COMPLEX:
        real = real - a_imaginary * b_imaginary
        imaginary = a_real * b_imaginary + a_imaginary * b_real
    return real, imaginary


@triton.jit
def conjugate_times(a_real, a_imaginary, b_real, b_imaginary, COMPLEX: tl.constexpr):
    """The product conj(a) · b."""
    real = a_real * b_real
    imaginary = real
    if COMPLEX:
        real = real + a_imaginary * b_imaginary
        imaginary = a_real * b_imaginary - a_imaginary * b_real
    return real, imaginary


@triton.jit
def advance(h_real, h_imaginary, f_real, f_imaginary, B, driven, COMPLEX: tl.constexpr):
    """The next state f · h + B · driven; B's raw parts are ``[STATES]``, driven is ``[BLOCK]``."""
    real, imaginary = times(f_real, f_imaginary, h_real, h_imaginary, COMPLEX)
    real += B[0].to(tl.float32)[:, None] * driven[None, :]
    if COMPLEX:
        imaginary += B[1].to(tl.float32)[:, None] * driven[None, :]
    return real, imaginary


@triton.jit
def read(h_real, h_imaginary, C, COMPLEX: tl.constexpr):
    """C h over the states, 2 Re(C h) of complex ones; C's raw parts are ``[STATES]``."""
    y = h_real * C[0].to(tl.float32)[:, None]
    if COMPLEX:
        y = 2.0 * (y - h_imaginary * C[1].to(tl.float32)[:, None])
    return tl.sum(y, axis=0)


@triton.jit
def add_read_gradient(G_real, G_imaginary, C, grad, COMPLEX: tl.constexpr):
    """G + s conj(C) ȳ, the adjoint of :func:`read`; ȳ ``[BLOCK]``."""
    scaled = grad[None, :]
    if COMPLEX:
        scaled = 2.0 * scaled
        G_imaginary -= C[1].to(tl.float32)[:, None] * scaled
    return G_real + C[0].to(tl.float32)[:, None] * scaled, G_imaginary
