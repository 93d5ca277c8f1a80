"""Elementary functions for Triton kernels, accurate to a few units in the last place.

Written out because Triton's libdevice versions do not exist in its interpreter, and because the
vendors' sine and cosine carry a slow path for huge arguments that spills to local memory.
Polynomials are least-squares fits at Chebyshev nodes; the error stated is that of the polynomial.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Hyperbolic tangent in float32, relative error under 3e-7 everywhere, ±1 at ±inf."""
    a = tl.abs(x)
    z = x * x
    # Below 0.6 the exponential form cancels: x + x³·P(x²), relative error 1e-8.
    p = -0.00627577 * z + 0.02111571
    p = p * z - 0.053875
    p = p * z + 0.13332923
    p = p * z - 0.3333333
    near_zero = x + x * z * p
    beyond = 1.0 - 2.0 / (tl.exp(2.0 * a) + 1.0)
    return tl.where(a < 0.6, near_zero, tl.where(x < 0, -beyond, beyond))


@triton.jit
def sigmoids(x):
    """(σ(x), σ(−x) = 1 − σ(x)) in float32, each with a relative error under 3e-7."""
    e = tl.exp(-tl.abs(x))
    large = 1.0 / (1.0 + e)
    small = e * large
    return tl.where(x >= 0, large, small), tl.where(x >= 0, small, large)


@triton.jit
def softplus(x):
    """(log(1 + e^x), its derivative σ(x)) in float32, each with a relative error under 4e-7."""
    e = tl.exp(-tl.abs(x))
    # log(1 + e) = 2 artanh(s), s = e / (2 + e) ≤ 1/3, as s·P(s²): the plain logarithm loses a small e.
    s = e / (2.0 + e)
    z = s * s
    p = 0.28161454 * z + 0.27964345
    p = p * z + 0.4002465
    p = p * z + 0.66666323
    p = p * z + 2.0
    large = 1.0 / (1.0 + e)
    return tl.maximum(x, 0.0) + s * p, tl.where(x >= 0, large, e * large)


@triton.jit
def _sincos_quadrant(r, quadrant):
    # sin and cos on [-π/4, π/4] (polynomial errors 1.3e-8 and 1.1e-9), then the quadrant's swap and signs.
    z = r * r
    s = -0.00019588 * z + 0.00833275
    s = s * z - 0.16666665
    s = r + r * z * s
    c = 2.45473201e-05 * z - 1.38882989e-03
    c = c * z + 4.16666646e-02
    c = 1.0 - 0.5 * z + z * z * c
    swap = (quadrant & 1) != 0
    sine = tl.where(swap, c, s)
    cosine = tl.where(swap, s, c)
    return (
        tl.where((quadrant & 2) != 0, -sine, sine),
        tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine),
    )


@triton.jit
def sincos(x):
    """(sin x, cos x) of float32 radians, |x| ≤ 10^4: absolute error under 2e-7 plus x's own rounding."""
    k = tl.floor(x * 0.6366197723675814 + 0.5)
    # π/2 in three parts, the first two short enough that k times them is exact.
    r = x - k * 1.5703125
    r = r - k * 0.0004837512969970703
    r = r - k * 7.549790126404332e-08
    return _sincos_quadrant(r, k.to(tl.int32))


@triton.jit
def sincos_of_phase(phase):
    """(sin, cos) in float32 of int64 phases (2^64 a turn), absolute error under 1e-7: reduction is exact."""
    high = (phase >> 32).to(tl.int32)
    quadrant = (high + (1 << 29)) >> 30
    r = (high - (quadrant << 30)).to(tl.float32) * 1.4629180792671596e-09  # 2π / 2^32
    return _sincos_quadrant(r, quadrant)


@triton.jit
def sincos_of_phase_float64(phase):
    """(sin, cos) in float64 of int64 phases, absolute error under 1e-15: Taylor series on [-π/4, π/4]."""
    quadrant = (phase + (1 << 61)) >> 62
    r = (phase - (quadrant << 62)).to(tl.float64) * 3.4061215800865545e-19  # 2π / 2^64
    z = r * r
    s = tl.full(z.shape, -7.647163731819816e-13, tl.float64)  # -1/15!
    s = s * z + 1.6059043836821613e-10
    s = s * z - 2.505210838544172e-08
    s = s * z + 2.7557319223985893e-06
    s = s * z - 1.984126984126984e-04
    s = s * z + 8.333333333333333e-03
    s = s * z - 1.6666666666666666e-01
    s = r + r * z * s
    c = tl.full(z.shape, 4.779477332387385e-14, tl.float64)  # 1/16!
    c = c * z - 1.1470745597729725e-11
    c = c * z + 2.08767569878681e-09
    c = c * z - 2.755731922398589e-07
    c = c * z + 2.48015873015873e-05
    c = c * z - 1.388888888888889e-03
    c = c * z + 4.1666666666666664e-02
    c = c * z - 5.0e-01
    c = 1.0 + z * c
    q = quadrant.to(tl.int32)
    swap = (q & 1) != 0
    sine = tl.where(swap, c, s)
    cosine = tl.where(swap, s, c)
    return tl.where((q & 2) != 0, -sine, sine), tl.where(((q + 1) & 2) != 0, -cosine, cosine)
