"""What ops do under ``torch.autocast``."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def under_autocast(x: Tensor) -> Tensor:
    """The tensor as a matrix product reads it: in autocast's dtype where autocast is on (float64 stays)."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or not x.is_floating_point() or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


def outside_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside an op, whose forms choose their dtypes: custom ops run under their caller's autocast."""
    return torch.autocast(x.device.type, enabled=False)
