"""Cases of the matrix memories."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import (
    hebbian_scan,
    hebbian_scan_step_,
    phase_hebbian_scan,
    phase_hebbian_scan_step_,
)

from .case import DTYPES, LOOSE, Bound, Case, Scan, short

# batch, length, heads, K, V: a few chunks; and the largest heads of each configuration (compiled only).
SMALL = (1, 128, 1, 32, 64)
HEADS = {64: (2, 256, 2, 64, 64), 128: (2, 256, 2, 128, 128), 256: (2, 256, 2, 256, 256)}
ODD = (1, 37, 1, 19, 21)


def _inputs(
    dtype: torch.dtype, is_complex: bool, plain: bool, packed: bool, shape: tuple[int, ...]
) -> dict[str, Tensor | None]:
    batch, length, heads, columns, rows = shape
    pair = (2,) if is_complex else ()
    by_head = (batch, length, heads)
    return {
        "q": torch.randn(*by_head, columns, *pair).to(dtype),
        # Not longer than 1, as the delta rule wants it.
        "k": (torch.rand(*by_head, columns, *pair) / (2 * columns) ** 0.5).to(dtype),
        "v": torch.randn(*by_head, rows, *pair).to(dtype),
        "log_decay": None if plain else -torch.rand(by_head),
        "beta": None if plain else torch.rand(by_head),
        "initial_state": None if plain else torch.randn(2 if packed else batch, heads, rows, columns, *pair),
        "cu_seqlens": torch.tensor([0, length // 3, length]) if packed else None,
    }
