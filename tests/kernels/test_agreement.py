"""Every op on both backends against the float64 reference: odd sizes, all gradients, states included."""

import itertools
import math

import pytest
import torch

from phasefield_kernels import (
    aperiodic_scan,
    oscillatory_scan,
    phase_from_radians,
    phase_linear,
    phase_matmul,
    rotation_scan,
)
from phasefield_kernels.aperiodic_scan import fused as fused_aperiodic_scan
from phasefield_kernels.rotation_scan import fused as fused_rotation_scan
from tests.machinery.comparison import assert_agrees_with_reference

BACKENDS = ("torch", "triton")
WITH_NATIVE = (*BACKENDS, "native")
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
# (batch, time, width): more lanes than a block and a time that no block of steps divides; and a single
# sequence that the fused kernels cut into chunks (see `cut_in_time`).
CASES = [(torch.float32, (2, 21, 33)), (torch.bfloat16, (1, 37, 3))]
# In the forms that differ most, every dtype, one step, and chunks of more lanes.
MORE_CASES = [(torch.bfloat16, (2, 21, 33)), (torch.float32, (2, 1, 5))]
MORE_CASES += [(torch.float16, (1, 37, 33)), (torch.float32, (1, 53, 3))]
# Long enough for the rotation's spans side by side: a whole tile of them forward, two backward, and a part.
SPANS_CASES = [(torch.float32, (2, 83, 33))]
MORE_SPANS_CASES = [(torch.bfloat16, (2, 70, 5)), (torch.float16, (2, 128, 3))]


def tolerances(dtype, steps, **rest):
    """Allowed errors, relative to the largest value.

    Outputs: each step adds about 4 float32 roundings, which add like √T; then one rounding to the output's
    dtype. Gradients are formed from outputs rounded to that dtype (the saved h), so each step's factor is
    off by a few such roundings, and a sum over T steps by √T of them; 8 covers the largest of thousands.
    """
    out = 16 * 2**-24 * math.sqrt(steps) + 2 * ROUNDING[dtype]
    grad = 8 * (ROUNDING[dtype] * 4 + 4 * 2**-24 * math.sqrt(steps))
    return {"out0": out, "out1": 16 * 2**-24 * math.sqrt(steps), "default": grad} | rest


@pytest.fixture
def cut_in_time(monkeypatch):
    """Let the fused kernels cut sequences of 32 steps, as they do long ones: the interpreter is slow."""

    def apply():
        for module in (fused_aperiodic_scan, fused_rotation_scan):
            monkeypatch.setattr(module, "TIME_LOOP", module.TIME_LOOP._replace(shortest_chunk=16))

    return apply


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize(
    ("dtype", "shape", "packed"),
    [(*case, packed) for case in CASES for packed in (False, True)] + [(*case, False) for case in MORE_CASES],
    ids=str,
)
def test_aperiodic_scan(backend, dtype, shape, packed, device, cut_in_time):
    batch, length, width = shape
    if batch == 1:
        cut_in_time()
    generator = torch.Generator().manual_seed(length)

    def random(*size):
        return torch.randn(*size, generator=generator)

    sequences, offsets = batch, None
    if packed:
        batch, sequences = 1, 4
        offsets = torch.tensor([0, length // 3, length // 3, length - 1, length])
    assert_agrees_with_reference(
        aperiodic_scan,
        {
            "u": random(batch, length, width),
            "scale": 0.9 * torch.tanh(random(width)),
            "phase": phase_from_radians(3 * random(width)),
            "initial_state": random(sequences, width),
            "cu_seqlens": offsets,
        },
        backend=backend,
        dtype=dtype,
        by_dtype=("u",),
        tolerance=tolerances(dtype, length),
        device=device,
    )


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize(
    ("angle", "decay", "dtype", "shape"),
    [
        (angle, decay, *case)
        for angle, decay in itertools.product(("constant", "token"), (None, "constant", "token"))
        for case in CASES + SPANS_CASES + (MORE_CASES + MORE_SPANS_CASES) * (angle == decay)
    ],
    ids=str,
)
def test_rotation_scan(backend, dtype, shape, angle, decay, device, cut_in_time):
    batch, length, width = shape
    if batch == 1:
        cut_in_time()
    generator = torch.Generator().manual_seed(length)

    def parameter(kind):
        return torch.rand(*((width,) if kind == "constant" else shape), generator=generator)

    assert_agrees_with_reference(
        rotation_scan,
        {
            "x": torch.randn(*shape, 2, generator=generator),
            "angle": 6 * parameter(angle) - 3,
            "log_decay": None if decay is None else -0.2 * parameter(decay),
            "initial_state": torch.randn(batch, width, 2, generator=generator),
        },
        backend=backend,
        dtype=dtype,
        by_dtype=("x", *(name for name, kind in (("angle", angle), ("log_decay", decay)) if kind == "token")),
        tolerance=tolerances(dtype, length),
        device=device,
    )


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize(
    ("angle", "damping", "dtype", "shape"),
    [
        (angle, damping, *case)
        for angle, damping in (("constant", None), ("constant", "constant"), ("token", "token"))
        for case in CASES + SPANS_CASES + (MORE_CASES + MORE_SPANS_CASES) * (angle == "token")
    ],
    ids=str,
)
def test_oscillatory_scan(backend, dtype, shape, angle, damping, device, cut_in_time):
    batch, length, width = shape
    if batch == 1:
        cut_in_time()
    generator = torch.Generator().manual_seed(length)

    def parameter(kind):
        return torch.rand(*((width,) if kind == "constant" else shape), generator=generator)

    by_token = (name for name, kind in (("angle", angle), ("log_damping", damping)) if kind == "token")
    assert_agrees_with_reference(
        oscillatory_scan,
        {
            "x": torch.randn(*shape, 2, generator=generator),
            "gate": 2 * torch.randn(*shape, generator=generator) - 2,
            "angle": 6 * parameter(angle) - 3,
            "log_damping": None if damping is None else -0.2 * parameter(damping),
            "initial_state": torch.randn(batch, width, 2, generator=generator),
        },
        backend=backend,
        dtype=dtype,
        by_dtype=("x", "gate", *by_token),
        tolerance=tolerances(dtype, length),
        device=device,
    )


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize("kind", ["constant", "token"])
def test_packed_sequences_long_enough_for_spans_side_by_side(backend, kind, device):
    length, width = 270, 3
    generator = torch.Generator().manual_seed(length)
    size = (width,) if kind == "constant" else (1, length, width)
    assert_agrees_with_reference(
        oscillatory_scan,
        {
            "x": torch.randn(1, length, width, 2, generator=generator),
            "gate": 2 * torch.randn(1, length, width, generator=generator) - 2,
            "angle": 6 * torch.rand(size, generator=generator) - 3,
            "log_damping": -0.2 * torch.rand(size, generator=generator),
            "initial_state": torch.randn(4, width, 2, generator=generator),
            "cu_seqlens": torch.tensor([0, 100, 100, 269, 270]),
        },
        backend=backend,
        dtype=torch.float32,
        by_dtype=(),
        tolerance=tolerances(torch.float32, length),
        device=device,
    )


def product_tolerances(dtype, inner, algorithm="direct"):
    """Allowed errors of products of ``inner`` complex numbers, relative to the largest value.

    2 · inner roundings in float32 add like a square root. Then the dtype's own: of the output, of dz and of
    partial results, a few each; Gauss's sums are rounded to it as well.
    """
    rounding = {"direct": 4, "gauss": 10}[algorithm] * ROUNDING[dtype]
    return {"default": 2 * rounding + 16 * 2**-24 * math.sqrt(2 * inner)}


# (shape of the batch, inner, units): several tiles; a vector; a long sum, split; a handful of rows.
LINEAR_SHAPES = [((3, 23), 19, 45), ((), 7, 5), ((2, 130), 37, 3), ((5,), 70, 33)]
ALL_PARTS = ("bias", "threshold", "residual")
LINEAR_CASES = [("direct", dtype, shape, ALL_PARTS) for dtype in ROUNDING for shape in LINEAR_SHAPES]
LINEAR_CASES += [("gauss", dtype, LINEAR_SHAPES[0], ALL_PARTS) for dtype in ROUNDING]
LINEAR_CASES += [
    ("direct", dtype, LINEAR_SHAPES[2], parts) for dtype in ROUNDING for parts in ((), ("bias",))
]


@pytest.mark.parametrize("backend", WITH_NATIVE)
@pytest.mark.parametrize(("algorithm", "dtype", "shape", "parts"), LINEAR_CASES, ids=str)
def test_phase_linear(backend, algorithm, dtype, shape, parts, device):
    lead, inner, units = shape
    generator = torch.Generator().manual_seed(inner)

    def random(*size):
        return torch.randn(*size, generator=generator)

    optional = {"bias": random(units, 2), "threshold": random(units), "residual": random(*lead, units, 2)}
    if "threshold" in parts and dtype != torch.float32 and algorithm == "gauss" and backend == "triton":
        # Its sums are rounded: z falls on the other side of a threshold now and then, and the gradient jumps.
        optional["threshold"] = optional["threshold"].abs() + 0.5
        optional["bias"] = 8 + optional["bias"]  # away from z = 0, where a positive threshold bends most

    def op(x, weight, bias, threshold, residual, backend):
        chosen = {} if backend == "reference" else {"algorithm": algorithm}
        return (phase_linear(x, weight, bias, threshold, residual, backend=backend, **chosen),)

    assert_agrees_with_reference(
        op,
        {
            "x": random(*lead, inner, 2),
            "weight": random(units, inner, 2) / math.sqrt(inner),
            **{name: tensor if name in parts else None for name, tensor in optional.items()},
        },
        backend=backend,
        dtype=dtype,
        by_dtype=("x", "weight", "residual"),
        tolerance=product_tolerances(dtype, max(inner, units, 300), algorithm),
        device=device,
    )


MATMUL_SHAPES = [
    ((33, 19), (19, 21)),
    ((19,), (2, 19, 5)),
    ((3, 5, 19), (19,)),
    ((3, 5, 7), (7, 9)),
    ((2, 1, 5, 7), (3, 7, 9)),
]
MATMUL_CASES = [("direct", dtype, *shapes) for dtype in ROUNDING for shapes in MATMUL_SHAPES]
MATMUL_CASES += [("gauss", dtype, *MATMUL_SHAPES[-1]) for dtype in ROUNDING]
MATMUL_CASES += [
    ("direct", torch.float32, *shapes)
    for shapes in (
        ((19,), (19,)),
        ((2, 3, 1, 5, 7), (2, 1, 4, 7, 3)),
        ((0, 5, 7), (7, 3)),
        ((2, 5, 0), (0, 3)),
    )
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("algorithm", "dtype", "a", "b"), MATMUL_CASES, ids=str)
def test_phase_matmul(backend, algorithm, dtype, a, b, device):
    generator = torch.Generator().manual_seed(len(a) + 10 * len(b))

    def op(a, b, backend):
        chosen = {} if backend == "reference" else {"algorithm": algorithm}
        return (phase_matmul(a, b, backend=backend, **chosen),)

    tensors = {name: torch.randn(*size, 2, generator=generator) for name, size in (("a", a), ("b", b))}
    assert_agrees_with_reference(
        op,
        tensors,
        backend=backend,
        dtype=dtype,
        by_dtype=("a", "b"),
        tolerance=product_tolerances(dtype, 40, algorithm),
        device=device,
    )
