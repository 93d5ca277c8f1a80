"""Cases of selective_scan."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from phasefield_kernels import selective_scan, selective_scan_step_

from .case import DTYPES, ONE_PASS, Bound, Case, Scan, short

STATES = 16
# The smallest layout's steps whose states are held at a time, complex ones half as many.
HELD = 4

TIME_LOOP = dict(batch=1, length=32, width=32)
PACKED = dict(batch=1, length=512, width=32, sequences=1)
CHUNKED = dict(batch=1, length=2048, width=32)  # too slow for the interpreter in every run of the tests
MANY_LANES = dict(batch=64, length=16, width=1024)  # too slow for the interpreter
ODD = dict(batch=2, length=9, width=33, states=5, groups=3)
ONE_STEP = dict(batch=2, length=1, width=64)

# A first pass finds each chunk's own end state: of x, Δ, z and y it reads x and Δ (Δ, z and dL/dy of seven
# tensors in the backward), and B (C); to this come the chunks' states, 16 numbers of a channel in 128 steps.
TWO_PASS = Bound(unique=1.56, sectors=1.05)
# Five states are no whole number of sectors.
ODD_SIZES = Bound(unique=2.0, sectors=3.0)


def _inputs(
    dtype: torch.dtype,
    pair: tuple[int, ...],
    optional: bool,
    batch: int,
    length: int,
    width: int,
    states: int = STATES,
    groups: int | None = None,
    sequences: int = 0,
) -> dict[str, Tensor | None]:
    tokens, projections = (
        (batch, length, width),
        (batch, length, *((groups,) if groups else ()), states, *pair),
    )
    return {
        "x": torch.randn(tokens, dtype=dtype),
        "dt": torch.rand(tokens, dtype=dtype),
        "A": -torch.rand(width, states, *pair),
        "B": torch.randn(projections, dtype=dtype),
        "C": torch.randn(projections, dtype=dtype),
        "D": torch.randn(width) if optional else None,
        "z": torch.randn(tokens, dtype=dtype) if optional else None,
        "dt_bias": torch.randn(width) if optional else None,
        "initial_state": torch.zeros(sequences or batch, width, states, *pair) if optional else None,
        "cu_seqlens": torch.arange(sequences + 1) * (length // sequences) if sequences else None,
    }


def _scratch(pair: tuple[int, ...], batch: int, length: int, width: int, **_: int) -> int:
    # Written and read: the state before every HELD steps. A launch covers 16,384 lanes at the most, and
    # each uses 4 KB of it again for every segment: on a device it stays in the second-level cache.
    held = HELD // 2 if pair else HELD
    # Each of a long scan's two rows uses its own again for every segment.
    length = min(length, 512 if length == CHUNKED["length"] else 256)
    return 2 * 4 * batch * length * width * STATES * (2 if pair else 1) // held


def selective_scan_cases() -> Iterator[Case]:
    """Time loops and chunks, real and complex, with everything optional and without."""
    scan = partial(selective_scan, dt_softplus=True)

    def case(path: str, dtype: torch.dtype, shape: dict, *, pair: tuple = (), optional: bool = True) -> Scan:
        kind = "complex" if pair else "real"
        extent = "" if optional else ", nothing optional"
        return Scan(
            f"{path}, {kind}{extent}, {short(dtype)}",
            scan if optional else selective_scan,
            partial(_inputs, dtype, pair, optional, **shape),
            saves_first=True,
            saves_output=False,
            between=(0, _scratch(pair, **shape)),
        )

    for dtype in DTYPES:
        quick = dtype == torch.bfloat16
        loop = case("time loop", dtype, TIME_LOOP)
        yield loop.forward(ONE_PASS, quick=quick)
        yield loop.backward(ONE_PASS, quick=quick)
        many = case("many lanes", dtype, MANY_LANES)
        yield many.forward()
        yield many.backward()
    plain = case("time loop", torch.float32, TIME_LOOP, optional=False)
    yield plain.forward(ONE_PASS)
    yield plain.backward(ONE_PASS)
    odd = case("odd sizes", torch.float32, ODD)
    yield odd.forward(ODD_SIZES)
    yield odd.backward(ODD_SIZES)
    # Compiling these takes long; a second dtype would tell nothing new.
    dtype = torch.bfloat16
    chunked = case("chunked", dtype, CHUNKED)
    yield chunked.forward(TWO_PASS)
    yield chunked.backward(TWO_PASS)
    packed = case("packed", dtype, PACKED)
    yield packed.forward(ONE_PASS)
    yield packed.backward(ONE_PASS)
    yield case("decoding", dtype, ONE_STEP).step(_step, Bound(unique=1.05, sectors=1.05))
    # A program holds half as many complex channels: then its sums are B's and C's whole gradients.
    twin = case("time loop", dtype, TIME_LOOP | dict(width=16), pair=(2,))
    yield twin.forward(ONE_PASS, quick=True)
    yield twin.backward(ONE_PASS, quick=True)
    many = case("many lanes", dtype, MANY_LANES, pair=(2,))
    yield many.forward()
    yield many.backward()


def _step(*inputs: Tensor, backend: str) -> Tensor:
    *parameters, state = inputs
    return selective_scan_step_(*parameters, True, state, backend=backend)
