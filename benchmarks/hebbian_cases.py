"""Cases of hebbian_update_ and gravity_field."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import gravity_field, hebbian_update_

from .case import DTYPES, LOOSE, ONE_PASS, Bound, Case, Work, short

# rows, units, inputs: a few tiles, the sum cut; one pass in place; many tiles (compiled only); odd sizes.
CUT_UPDATE = (1024, 64, 128)
WHOLE_UPDATE = (192, 128, 64)
LARGE_UPDATE = (4096, 2048, 2048)
ODD_UPDATE = (37, 21, 35)


def _update(
    path: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    bound: Bound | None,
    *,
    between: int = 0,
    quick: bool = False,
    **options: object,
) -> Case:
    rows, units, inputs = shape

    def prepare() -> Work:
        weight = torch.randn(units, inputs, dtype=dtype)
        post, pre = torch.randn(rows, units, dtype=dtype), torch.randn(rows, inputs, dtype=dtype)
        run = lambda: [hebbian_update_(weight, post, pre, 0.1, 0.9, backend="triton", **options)]  # noqa: E731
        return Work(run, [weight, post, pre], between)

    told = ", ".join(f"{name} {value}" for name, value in options.items() if name != "seed")
    return Case(f"{path}, {told or 'hebb'}, {short(dtype)}", prepare, bound, quick)
