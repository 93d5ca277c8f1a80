"""What the gates run: every op, path, form and dtype, through the public functions.

Shapes are small (the interpreter runs most of them) and typical: widths and times divisible by 16, as in
models, and an odd one. To add an op, write a function that yields its cases and add it to :data:`OPS`.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import (
    aperiodic_scan,
    aperiodic_scan_step_,
    golden_phases,
    phase_linear,
    phase_matmul,
    rotation_scan,
    rotation_scan_step_,
)

from .case import Bound, Case, Product, Scan

DTYPES = (torch.float32, torch.bfloat16)
ANGLES = ("constant", "token")
DECAYS = ("no", "constant", "token")

# Every byte once; the rest is partial sums for parameters. Packed, each program reads two offsets alone.
ONE_PASS = Bound(unique=1.05, sectors=1.02)
# Misaligned rows, and few steps to each state: here only races and accesses out of bounds matter.
LOOSE = Bound(unique=1.5, sectors=2.5)
# A constant angle is read as a 64-bit phase.
DECODING = Bound(unique=1.1, sectors=1.0)


def two_pass(read: int, written: int) -> Bound:
    """A first pass finds each chunk's own end state, so what is read is read twice; and the chunks' states.

    Args:
        read, written: numbers a lane and step.
    """
    # A chunk has at least 128 steps and six states in float32: 5 % of a bfloat16 number read and written.
    return Bound(unique=(2 * read + written) / (read + written) * 1.035, sectors=1.05)


# Two iterations and the last pass read u; the last one writes h. The chunks' states are as above.
NEWTON = Bound(unique=2.2, sectors=1.05)

# The fused kernels choose path and configuration by the number of lanes (batch · width) and the time.
TIME_LOOP = dict(batch=2, length=32, width=32)
PACKED = dict(batch=1, length=32, width=32, sequences=2)
STATELESS = TIME_LOOP | dict(state=False)
CHUNKED = dict(batch=1, length=256, width=32)
MANY_LANES = dict(batch=64, length=8, width=1024)  # too slow for the interpreter
ODD = dict(batch=2, length=9, width=33)
ONE_STEP = dict(batch=2, length=1, width=64)


def _state_and_packing(
    shape: tuple[int, ...], batch: int, length: int, sequences: int, state: bool
) -> dict[str, Tensor | None]:
    return {
        "initial_state": torch.zeros(sequences or batch, *shape) if state else None,
        "cu_seqlens": torch.arange(sequences + 1) * (length // sequences) if sequences else None,
    }


def _aperiodic_inputs(
    dtype: torch.dtype, batch: int, length: int, width: int, sequences: int = 0, state: bool = True
) -> dict[str, Tensor | None]:
    return {
        "u": torch.randn(batch, length, width, dtype=dtype),
        "scale": torch.rand(width) - 0.5,
        "phase": golden_phases(width),
    } | _state_and_packing((width,), batch, length, sequences, state)


def _aperiodic(path: str, dtype: torch.dtype, shape: dict[str, int]) -> Scan:
    return Scan(f"{path}, {_short(dtype)}", aperiodic_scan, partial(_aperiodic_inputs, dtype, **shape))


def aperiodic_scan_cases() -> Iterator[Case]:
    """Time loops, the chunked backward, Newton's forward, the step."""
    for dtype in DTYPES:
        quick = dtype == torch.float32
        for path, shape, bound in (
            ("time loop", TIME_LOOP, ONE_PASS),
            ("packed", PACKED, ONE_PASS),
            ("no initial state", STATELESS, ONE_PASS),
            ("odd sizes", ODD, LOOSE),
            ("many lanes", MANY_LANES, None),
        ):
            scan = _aperiodic(path, dtype, shape)
            yield scan.forward(bound, quick=quick and path == "time loop")
            yield scan.backward(bound, quick=quick and path == "time loop")
        yield _aperiodic("chunked", dtype, CHUNKED).backward(two_pass(read=2, written=1), quick=quick)
        yield _aperiodic("newton", dtype, CHUNKED).forward(NEWTON, quick=quick, method="newton")
        yield _aperiodic("decoding", dtype, ONE_STEP).step(aperiodic_scan_step_, ONE_PASS)


def _rotation_inputs(
    dtype: torch.dtype,
    angle: str,
    decay: str,
    batch: int,
    length: int,
    width: int,
    sequences: int = 0,
    state: bool = True,
) -> dict[str, Tensor | None]:
    def parameter(kind: str) -> Tensor:
        return torch.rand(width) if kind == "constant" else torch.rand(batch, length, width).to(dtype)

    return {
        "x": torch.randn(batch, length, width, 2, dtype=dtype),
        "angle": parameter(angle),
        "log_decay": None if decay == "no" else -0.1 * parameter(decay),
    } | _state_and_packing((width, 2), batch, length, sequences, state)


def _rotation(path: str, dtype: torch.dtype, angle: str, decay: str, shape: dict[str, int]) -> Scan:
    name = f"{path}, {angle} angle, {decay} decay, {_short(dtype)}"
    return Scan(name, rotation_scan, partial(_rotation_inputs, dtype, angle, decay, **shape))


def rotation_scan_cases() -> Iterator[Case]:
    """Time loops and chunks, in every form; for the input's gradient alone, h is not read."""
    for dtype, angle, decay in product(DTYPES, ANGLES, DECAYS):
        # Both kinds of parameters and both dtypes, in two of the twelve forms.
        quick = angle == decay == ("constant" if dtype == torch.float32 else "token")
        tokens = (angle == "token") + (decay == "token")
        scan = _rotation("time loop", dtype, angle, decay, TIME_LOOP)
        yield scan.forward(ONE_PASS, quick=quick)
        yield scan.backward(ONE_PASS, quick=quick)
        yield scan.backward_to_first(ONE_PASS)
        chunked = _rotation("chunked", dtype, angle, decay, CHUNKED)
        yield chunked.forward(two_pass(read=2 + tokens, written=2), quick=quick)
        # The first pass reads the cotangent and the tokens' parameters, not h.
        yield chunked.backward(two_pass(read=2 + tokens, written=4 + tokens), quick=quick)
        many = _rotation("many lanes", dtype, angle, decay, MANY_LANES)
        yield many.forward()
        yield many.backward()
        for path, shape, bound in (
            ("packed", PACKED, ONE_PASS),
            ("no initial state", STATELESS, ONE_PASS),
            ("odd sizes", ODD, LOOSE),
        ):
            if angle == decay:  # how the rows are laid out does not depend on the form
                scan = _rotation(path, dtype, angle, decay, shape)
                yield scan.forward(bound)
                yield scan.backward(bound)
        yield _rotation("decoding", dtype, angle, decay, ONE_STEP).step(rotation_scan_step_, DECODING)


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
        f"{path}, {'modReLU' if activated else 'linear'}, {algorithm}, {_short(dtype)}",
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
            case = Product(
                f"{path}, {_short(dtype)}", phase_matmul, inputs, (structured, structured + output)
            )
            bound = LOOSE if path == "odd sizes" else ONE_PASS
            yield case.forward(bound, quick=path == "repeated")
            # Gradients of a repeated batch are written one by one, in float32, and added by torch.
            yield case.backward(ONE_PASS if path == "batches" else LOOSE, quick=path == "repeated")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


OPS = {
    "aperiodic_scan": aperiodic_scan_cases,
    "phase_linear": phase_linear_cases,
    "phase_matmul": phase_matmul_cases,
    "rotation_scan": rotation_scan_cases,
}
"""An op's name → a function that yields its cases."""
