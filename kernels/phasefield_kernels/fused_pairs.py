"""Complex numbers in Triton kernels: loaded as the neighbouring floats they are, computed on in two parts."""

import triton
import triton.language as tl


@triton.jit
def parts(loaded, BLOCK: tl.constexpr):
    """2 · BLOCK neighbouring floats (of the last axis) as (real, imaginary) parts in float32."""
    return tl.split(tl.reshape(loaded.to(tl.float32), loaded.shape[:-1] + [BLOCK, 2]))


@triton.jit
def neighbours(real, imaginary, BLOCK: tl.constexpr):
    """The inverse of :func:`parts`, ready to be stored."""
    return tl.reshape(tl.join(real, imaginary), real.shape[:-1] + [2 * BLOCK])
