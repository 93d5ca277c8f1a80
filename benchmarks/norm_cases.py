"""Cases of phase_norm."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from phasefield_kernels import phase_norm

from .case import DTYPES, LOOSE, ONE_PASS, Case, Product, short

# rows, channels: a few tiles; many rows and the widest row (both compiled only); nothing divisible by 16.
SMALL_NORM = (128, 64)
LARGE_NORM = (32_768, 512)
WIDEST_NORM = (64, 4096)
ODD_NORM = (37, 21)


def _norm_inputs(dtype: torch.dtype, rows: int, width: int, activated: bool) -> dict[str, Tensor | None]:
    return {
        "x": torch.randn(rows, width, 2, dtype=dtype),
        "weight": torch.randn(width),
        "threshold": torch.randn(width) if activated else None,
    }


def phase_norm_cases() -> Iterator[Case]:
    """With modReLU and without; rows shorter than a tile, and the widest."""
    for dtype in DTYPES:
        for activated in (True, False):
            for path, shape, bound in (
                ("small", SMALL_NORM, ONE_PASS),
                ("large", LARGE_NORM, None),
                ("widest", WIDEST_NORM, None),
                ("odd sizes", ODD_NORM, LOOSE),
            ):
                name = f"{path}, {'modReLU' if activated else 'norm alone'}, {short(dtype)}"
                norm = Product(name, phase_norm, partial(_norm_inputs, dtype, *shape, activated))
                quick = activated and path == "small"
                yield norm.forward(bound, quick=quick)
                yield norm.backward(bound, quick=quick)
