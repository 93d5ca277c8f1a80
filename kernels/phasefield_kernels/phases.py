"""Angles as 64-bit integer phases: 2^64 units a turn, so that adding and multiplying wrap for free.

Multiples of a fixed angle reach thousands of radians (the golden angle times 511 is 1226), where
float32 has lost four digits and bfloat16 everything. As integers ``t · phase`` is exact for any t: the
only errors are those of the angle's conversion, which is done in float64 (3e-16 rad for an angle within
a turn, so 3e-10 rad after 10^6 steps) and rounded to 2^-64 turns (2e-13 rad after as many). Integer
buffers also survive ``module.bfloat16()``, which converts floating-point buffers only.
"""

import math

import torch
from torch import Tensor

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
"""2π(1 − 1/φ) = 2.39996… rad, φ the golden ratio: its multiples fill the circle most evenly."""

_TURN = 2.0**64


def phase_from_radians(angle: Tensor) -> Tensor:
    """``round(2^64 · angle / 2π)`` modulo ``2^64``, as int64 (an int64 tensor is returned as it is)."""
    if angle.dtype == torch.int64:
        return angle
    turns = angle.double() / (2 * math.pi)
    turns = turns - torch.floor(turns + 0.5)  # [-1/2, 1/2): what int64 holds
    return torch.round(turns * _TURN).to(torch.int64)


def radians_from_phase(phase: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The angle in [-π, π) that an integer phase stands for (a floating-point tensor is only converted)."""
    if phase.dtype != torch.int64:
        return phase.to(dtype)
    return (phase.double() * (2 * math.pi / _TURN)).to(dtype)


def golden_phases(count: int, divisor: float = 1.0) -> Tensor:
    """Integer phases of ``j · GOLDEN_ANGLE / divisor`` for j = 0 … count − 1, int64 ``[count]``."""
    step = phase_from_radians(torch.tensor(GOLDEN_ANGLE / divisor, dtype=torch.float64))
    return torch.arange(count, dtype=torch.int64) * step
