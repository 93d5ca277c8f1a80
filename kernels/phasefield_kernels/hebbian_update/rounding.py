"""Rounding to a 16-bit dtype, to nearest or stochastically, in PyTorch: bit for bit what the kernels do."""

import torch
from torch import Tensor

_32_BITS = 0xFFFFFFFF


def assign_(weight: Tensor, value: Tensor, seed: int | None) -> None:
    """Store ``value`` in the weight, rounded to nearest, or stochastically if there is a seed."""
    if value is not weight:
        weight.copy_(value if seed is None else stochastically_rounded(value, weight.dtype, seed))


def stochastically_rounded(value: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """float32 rounded up or down, each as likely as the other neighbour is far.

    bfloat16 and normal float16 drop their low 16 or 13 bits, after as many random ones have been added to
    them: the carry is the rounding. float16's subnormals are multiples of 2^-24, so ``⌊2^24 v + u⌋`` with u
    in [0, 1). Infinities and NaN stay what they are; beyond the largest number is infinity.

    Args:
        value: float32, any shape; its elements are numbered in row-major order.
        dtype: bfloat16 or float16.
        seed: of Philox.
    """
    random = philox(seed, torch.arange(value.numel(), device=value.device)).view(value.shape)
    dropped = 16 if dtype == torch.bfloat16 else 13
    bits = value.contiguous().view(torch.int32).long()
    rounded = ((bits + (random >> (32 - dropped))) & -(1 << dropped)).int().view(torch.float32)
    if dtype == torch.float16:
        steps = torch.floor(value * 2.0**24 + (random >> 8).float() * 2.0**-24)
        rounded = torch.where(value.abs() < 2.0**-14, steps * 2.0**-24, rounded)
    return torch.where(value.isfinite(), rounded, value).to(dtype)


def philox(seed: int, counter: Tensor) -> Tensor:
    """The first word of Philox 4×32-10 at ``(counter, 0)`` with the seed as key, as int64 in [0, 2^32).

    What ``triton.language.randint`` gives, before it is read as a signed number.
    """
    key = [seed & _32_BITS, seed >> 32 & _32_BITS]
    c0, c1 = counter & _32_BITS, counter >> 32 & _32_BITS
    c2 = c3 = torch.zeros_like(counter)
    for _ in range(10):
        # Products of two 32-bit words: int64 holds their 64 bits, whatever it makes of the sign.
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (b >> 32 & _32_BITS) ^ c1 ^ key[0], b & _32_BITS
        c2, c3 = (a >> 32 & _32_BITS) ^ c3 ^ key[1], a & _32_BITS
        key = [key[0] + 0x9E3779B9 & _32_BITS, key[1] + 0xBB67AE85 & _32_BITS]
    return c0
