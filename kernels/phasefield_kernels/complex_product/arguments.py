"""What phase_linear and phase_matmul ask of their arguments alike."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

ALGORITHMS = ("direct", "gauss")


def algorithm_named(name: str) -> None:
    """Raise unless it is one of the algorithms."""
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm is {name!r}; allowed are {', '.join(ALGORITHMS)}.")


def under_autocast(x: Tensor) -> Tensor:
    """The tensor as a matrix product reads it: in autocast's dtype where autocast is on (float64 stays)."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or not x.is_floating_point() or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


def outside_autocast(x: Tensor) -> AbstractContextManager[object]:
    """The forms choose their dtypes themselves."""
    return torch.autocast(x.device.type, enabled=False)
