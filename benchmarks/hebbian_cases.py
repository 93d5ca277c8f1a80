"""Cases of hebbian_update_ and gravity_field."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import gravity_field, hebbian_update_

from .case import DTYPES, LOOSE, ONE_PASS, Bound, Case, Product, Work, short

# rows, units, inputs: a sum that is cut; one pass; many tiles (compiled only); nothing divisible by 16.
CUT_UPDATE = (1024, 64, 128)
WHOLE_UPDATE = (192, 128, 64)
LARGE_UPDATE = (4096, 2048, 2048)
ODD_UPDATE = (37, 21, 35)


BY_COORDINATE = Bound(unique=1.05, sectors=9)
"""One coordinate of every row at a time: a sector is asked for as often as it holds numbers, and cached."""


def _update(
    path: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    bound: Bound | None = None,
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


def hebbian_update_cases() -> Iterator[Case]:
    """Every rule in one pass and in two, the bound, and both ways of rounding."""
    for dtype in DTYPES:
        two_bytes = dtype == torch.bfloat16
        rows, units, inputs = CUT_UPDATE
        # Partial sums in float32, written and read: a long sum of this size is cut into 4 pieces, or into 8
        # where tiles of float32 are 16 deep; with Oja's rule a row's square sums as well.
        pieces = 4 if two_bytes else 8
        parts = 2 * 4 * pieces * units * inputs
        whole = partial(_update, "one pass", dtype, WHOLE_UPDATE, ONE_PASS)
        yield whole(quick=two_bytes)
        yield whole(rule="oja", quick=not two_bytes)
        cut = partial(_update, "a sum in pieces", dtype, CUT_UPDATE, ONE_PASS)
        yield cut(between=parts, quick=not two_bytes)
        yield cut(between=parts + 2 * 4 * pieces * units, rule="oja")
        # The unrounded weight is written and read once more.
        yield cut(between=parts + 2 * 4 * units * inputs, max_norm=1.0, quick=two_bytes)
        # post is read again for ⟨y yᵀ⟩, whose pieces torch adds (unseen here); then that matrix and the
        # weight are read, and their product is written and read.
        gram = rows * units * dtype.itemsize + 4 * (pieces + 1) * units * units
        gram += units * inputs * (dtype.itemsize + 2 * 4)
        yield cut(between=parts + gram, rule="oja_subspace")
        large = partial(_update, "large", dtype, LARGE_UPDATE)
        yield large()
        yield large(rule="oja")
        yield large(rule="oja_subspace")
        yield _update("odd sizes", dtype, ODD_UPDATE, LOOSE, rule="oja")
    for dtype in (torch.bfloat16, torch.float16):
        rounding = dict(stochastic_rounding=True, seed=2**40 + 3)
        yield _update("large", dtype, LARGE_UPDATE, rule="oja", quick=dtype == torch.float16, **rounding)
        yield _update("a sum in pieces", dtype, CUT_UPDATE, **rounding)
        yield _update("a sum in pieces", dtype, CUT_UPDATE, max_norm=1.0, quick=True, **rounding)


def _field_inputs(
    dtype: torch.dtype, length: int, width: int, sources: int | None, massive: bool
) -> dict[str, Tensor | None]:
    count = length if sources is None else sources
    return {
        "x": torch.randn(2, length, width, dtype=dtype),
        "mass": torch.rand(2, count) if massive else None,
        "source": None if sources is None else torch.randn(2, sources, width, dtype=dtype),
    }


def _field(
    path: str,
    dtype: torch.dtype,
    length: int,
    width: int,
    sources: int | None = None,
    massive: bool = True,
    **options: object,
) -> Product:
    points, count = 2 * length, 2 * (length if sources is None else sources)
    row = width * dtype.itemsize
    # Forward, sources are read for their norms and again. Backward, three kernels read points and G (given
    # sources are read by three, too); norms and G·x are handed on, and so is a float32 gradient to points.
    forward = count * (row + 2 * 4)
    backward = points * (4 * row + 4 * 4) + (
        points * 2 * 4 * width if sources is None else count * (2 * row + 8)
    )
    return Product(
        f"{path}, {short(dtype)}",
        partial(gravity_field, softening=0.5, **options),
        partial(_field_inputs, dtype, length, width, sources, massive),
        (forward, backward),
    )


def _near_pairs(dtype: torch.dtype) -> Product:
    # Four tokens that repeat: every tile holds pairs that coincide, and the near kernel does it all.
    case = _field("near pairs", dtype, 128, 16)

    def make_inputs() -> dict[str, Tensor | None]:
        inputs = case.make_inputs()
        return inputs | {"x": inputs["x"][:, :4].repeat(1, 32, 1)}

    # Each kernel's rows are read once more, masses too, and what it wrote is read and written.
    points = 2 * 128
    forward, backward = points * (3 * 16 * dtype.itemsize + 4), points * (4 * 16 * dtype.itemsize + 2 * 4)
    backward += points * (2 * 4 * 16 + 2 * 16 * dtype.itemsize + 2 * 4)
    return case._replace(
        make_inputs=make_inputs, between=(case.between[0] + forward, case.between[1] + backward)
    )


def gravity_field_cases() -> Iterator[Case]:
    """Every width's tiles; its own sources, given ones, a window; masses or none."""
    for dtype, width in (*product(DTYPES, (64, 128, 256)), (torch.float16, 64)):
        case = _field(f"width {width}", dtype, 256, width)
        narrow = width == 64 and dtype != torch.float16
        yield case.forward(ONE_PASS if narrow else None, quick=narrow)
        yield case.backward(ONE_PASS if narrow else None, quick=narrow)
    for dtype in DTYPES:
        given = _field("given sources", dtype, 64, 64, sources=192)
        yield given.forward(ONE_PASS)
        yield given.backward(ONE_PASS)
        every = _field("not causal, no masses", dtype, 256, 64, massive=False, causal=False)
        yield every.forward(ONE_PASS)
        yield every.backward(ONE_PASS)
        window = _field("window", dtype, 256, 64, window=50)
        yield window.forward(ONE_PASS)
        yield window.backward(ONE_PASS)
        near = _near_pairs(dtype)
        yield near.forward(BY_COORDINATE)
        yield near.backward(BY_COORDINATE)
        odd = _field("odd sizes", dtype, 75, 19)
        yield odd.forward(LOOSE)
        yield odd.backward(LOOSE)
