"""Random numbers that are a function of the text: evaluation gives the same loss every time.

A generator with a fixed seed would do so for one batch, but give a sequence other numbers in other company.
Here each sequence's numbers come from its own tokens, whatever the batch.
"""

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def fixed_uniform(tokens: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Uniform numbers in (0, 1), float64 ``[B, *shape]``, for each row of ``tokens`` ``[B, T]``.

    Args:
        tokens: int64.
        shape: of a row's numbers.
        stream: rows of different streams are independent of one another.

    Source: the counter and the mixing of splitmix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
    pseudorandom number generators", 2014); int64 wraps around as its uint64 does.
    """
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device) * _GOLDEN
    key = _mix(_mix(tokens + places).sum(1) + stream)
    counter = torch.arange(1, math.prod(shape) + 1, device=tokens.device) * _GOLDEN
    bits = _mix(key.unsqueeze(1) + counter) >> 11 & (2**53 - 1)
    return ((bits.double() + 0.5) * 2.0**-53).reshape(-1, *shape)


def fixed_normal(tokens: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Standard normal numbers, as :func:`fixed_uniform` gives uniform ones."""
    return torch.special.ndtri(fixed_uniform(tokens, *shape, stream=stream))


def _mix(x: Tensor) -> Tensor:
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _logical_shift(x, shift)) * multiplier
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, by: int) -> Tensor:
    return x >> by & (2 ** (64 - by) - 1)
