"""Cases of the complex matrix products."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import phase_linear, phase_matmul

from .case import DTYPES, LOOSE, ONE_PASS, Case, Product, short

# rows, inner, units: a tile or a few; many tiles (compiled only); a handful of rows; nothing divisible by 16.
SMALL_PRODUCT = (192, 64, 64)
LARGE_PRODUCT = (2048, 512, 1024)
DECODING_PRODUCT = (8, 64, 128)
ODD_PRODUCT = (37, 21, 35)


def _linear_inputs(
    dtype: torch.dtype, rows: int, inner: int, units: int, activated: bool, bias: bool
) -> dict[str, Tensor | None]:
    return {
        "x": torch.randn(rows, inner, 2, dtype=dtype),
        "weight": torch.randn(units, inner, 2, dtype=dtype),
        "bias": torch.randn(units, 2) if activated or bias else None,
        "threshold": torch.randn(units) if activated else None,
        "residual": torch.randn(rows, units, 2, dtype=dtype) if activated else None,
    }


def _linear(
    path: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    activated: bool,
    algorithm: str = "direct",
    bias: bool = False,
) -> Product:
    rows, inner, units = shape
    output = 2 * rows * units * dtype.itemsize
    # Structured, the weight (or a handful of rows of x) is twice its size; written and read.
    structured = 2 * 4 * (units * inner if rows > 8 else rows * inner) * dtype.itemsize
    planes = 2 * 3 * (units + rows) * inner * dtype.itemsize
    # dz is written and read by two products, z is read, and the residual's gradient is the cotangent itself;
    # or the cotangent is read by both products, and once more to be summed for a bias.
    handed_on = 3 * output if activated else (1 + bias) * output
    return Product(
        f"{path}, {'modReLU' if activated else 'linear'}, {algorithm}, {short(dtype)}",
        partial(phase_linear, algorithm=algorithm),
        partial(_linear_inputs, dtype, rows, inner, units, activated, bias),
        (structured if algorithm == "direct" else planes, structured + handed_on),
    )


def phase_linear_cases() -> Iterator[Case]:
    """With everything in the epilogue and with nothing; both algorithms; every tile."""
    for dtype, activated in product(DTYPES, (True, False)):
        small = _linear("small", dtype, SMALL_PRODUCT, activated)
        yield small.forward(ONE_PASS, quick=not activated)
        yield small.backward(ONE_PASS, quick=activated)
        yield _linear("a handful of rows", dtype, DECODING_PRODUCT, activated).forward(LOOSE)
        yield _linear("gauss", dtype, SMALL_PRODUCT, activated, "gauss").forward(ONE_PASS, quick=activated)
        large = _linear("large", dtype, LARGE_PRODUCT, activated)
        yield large.forward()
        yield large.backward(quick=activated)
        yield _linear("large", dtype, LARGE_PRODUCT, activated, "gauss").backward()
        if not activated:
            yield _linear("bias", dtype, SMALL_PRODUCT, activated, bias=True).backward(ONE_PASS)
        odd = _linear("odd sizes", dtype, ODD_PRODUCT, activated)
        yield odd.forward(LOOSE)
        yield odd.backward(LOOSE)


def _matmul_inputs(dtype: torch.dtype, a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, Tensor | None]:
    return {"a": torch.randn(*a, 2, dtype=dtype), "b": torch.randn(*b, 2, dtype=dtype)}


def phase_matmul_cases() -> Iterator[Case]:
    """Batches of both, of one repeated for the other, and odd sizes."""
    for dtype in DTYPES:
        for path, a, b in (
            ("batches", (2, 2, 64, 32), (2, 2, 32, 64)),
            ("repeated", (2, 2, 64, 32), (2, 1, 32, 64)),
            ("odd sizes", (3, 17, 9), (3, 9, 21)),
        ):
            structured = 2 * 4 * torch.Size(b).numel() * dtype.itemsize
            inputs = partial(_matmul_inputs, dtype, a, b)
            output = 2 * torch.Size((*a[:-1], b[-1])).numel() * dtype.itemsize
            case = Product(f"{path}, {short(dtype)}", phase_matmul, inputs, (structured, structured + output))
            bound = LOOSE if path == "odd sizes" else ONE_PASS
            yield case.forward(bound, quick=path == "repeated")
            # Gradients of a repeated batch are written one by one, in float32, and added by torch.
            yield case.backward(ONE_PASS if path == "batches" else LOOSE, quick=path == "repeated")
