"""Where fused kernels launch, and which row of an op's configuration table they take."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def guard(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current: Triton launches on the current device and its current stream."""
    return torch.get_device_module(tensor.device).device(tensor.device) if tensor.is_cuda else nullcontext()


def architecture() -> int | str:
    """The target Triton compiles for: 86, 90, … on NVIDIA, ``"gfx942"``, … on AMD; 80 in the interpreter."""
    from triton.runtime import driver

    try:
        return driver.active.get_current_target().arch
    except RuntimeError:  # no driver: the interpreter
        return 80


def register_limit() -> dict[str, int]:
    """A launch option for large kernels: on NVIDIA, all registers that a thread can have.

    Left alone, ptxas spills a few for more occupancy.
    """
    return {"maxnreg": 255} if isinstance(architecture(), int) else {}


def for_architecture(table: dict[int, T], target: int | str) -> T:
    """The row of the highest architecture not above the target; the lowest row for AMD and older cards."""
    known = sorted(table)
    below = [number for number in known if isinstance(target, int) and number <= target]
    return table[below[-1] if below else known[0]]
