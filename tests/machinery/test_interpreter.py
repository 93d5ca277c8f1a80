"""The corrections to Triton's interpreter: each is needed, and right by PyTorch's own arithmetic."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run on the GPU, not in Triton's interpreter"
)
ROOT = Path(__file__).parents[2]
SIZE = 16
TRITON, NUMPY = (tuple(map(int, module.__version__.split(".")[:2])) for module in (triton, np))


@triton.jit
def arithmetic(a_ptr, b_ptr, out_ptr, OPERATION: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    a, b = tl.load(a_ptr + i), tl.load(b_ptr + i)
    if OPERATION == "add":
        out = a + b
    elif OPERATION == "subtract":
        out = a - b
    elif OPERATION == "multiply":
        out = a * b
    elif OPERATION == "divide":
        out = a / b
    elif OPERATION == "negate":
        out = -a
    elif OPERATION == "absolute value":
        out = tl.abs(a)
    elif OPERATION == "maximum":
        out = tl.maximum(a, b)
    elif OPERATION == "compare":
        out = tl.where(a < b, a, b)
    tl.store(out_ptr + i, out)


@triton.jit
def add_combine(a, b):
    return a + b


@triton.jit
def affine_combine(factor, offset, next_factor, next_offset):
    return factor * next_factor, next_factor * offset + next_offset


@triton.jit
def reduce_rows(a_ptr, out_ptr, WHAT: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    a = tl.load(a_ptr + i[:, None] * SIZE + i[None, :])
    if WHAT == "sum":
        out = tl.sum(a, 1)
    elif WHAT == "max":
        out = tl.max(a, 1)
    elif WHAT == "total":
        out = tl.sum(a) + tl.zeros((SIZE,), tl.float32)
    elif WHAT == "custom":
        out = tl.reduce(a, 1, add_combine)
    if WHAT == "running sum":
        tl.store(out_ptr + i[:, None] * SIZE + i[None, :], tl.cumsum(a, 1).to(tl.float32))
    else:
        tl.store(out_ptr + i, out.to(tl.float32))


@triton.jit
def affine_scan(f_ptr, x_ptr, out_ptr, REVERSE: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    at = i[:, None] * SIZE + i[None, :]
    _, out = tl.associative_scan(
        (tl.load(f_ptr + at), tl.load(x_ptr + at)), 1, affine_combine, reverse=REVERSE
    )
    tl.store(out_ptr + at, out)


@triton.jit
def product(a_ptr, b_ptr, out_ptr, PRECISION: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    at = i[:, None] * SIZE + i[None, :]
    out = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), input_precision=PRECISION)
    tl.store(out_ptr + at, out)


@triton.jit
def convert(a_ptr, out_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out_ptr + i, tl.load(a_ptr + i).to(out_ptr.dtype.element_ty))


@triton.jit
def keep(a_ptr, out_ptr, count, kept, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    mask = (i < count) & (kept > 0)
    tl.store(out_ptr + i, tl.load(a_ptr + i, mask=mask, other=0.0), mask=mask)


@triton.jit
def count(out_ptr, begin, end):
    total = 0
    for _ in range(begin, end, 2):
        total += 1
    tl.store(out_ptr, total)


def draw(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


ARITHMETIC = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "negate": lambda a, b: -a,
    "absolute value": lambda a, b: a.abs(),
    "maximum": torch.maximum,
    "compare": torch.minimum,
}


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_bfloat16_arithmetic_is_that_of_torch(operation):
    a, b = draw(SIZE), draw(SIZE, seed=1)
    out = torch.empty_like(a)
    arithmetic[(1,)](a, b, out, OPERATION=operation, SIZE=SIZE)
    assert torch.equal(out, ARITHMETIC[operation](a, b))


@pytest.mark.parametrize("what", ["sum", "max", "total", "running sum"])
def test_bfloat16_is_reduced_and_summed_up(what):
    a = draw(SIZE, SIZE)
    out = torch.zeros(SIZE, SIZE)
    reduce_rows[(1,)](a, out, WHAT=what, SIZE=SIZE)
    wide = a.float()
    if what == "running sum":
        expected = wide.cumsum(1)
    else:
        expected = {"sum": wide.sum(1), "max": wide.amax(1), "total": wide.sum().expand(SIZE)}[what]
        out = out[0]
    # One rounding to bfloat16, 2^-9, of sums that reach 20.
    torch.testing.assert_close(out, expected, rtol=2**-8, atol=20 * 2**-9)


def test_a_custom_reduction_of_bfloat16_rounds_at_each_step():
    a = draw(SIZE, SIZE)
    out = torch.empty(SIZE)
    reduce_rows[(1,)](a, out, WHAT="custom", SIZE=SIZE)
    expected = a[:, 0]
    for column in a.unbind(1)[1:]:
        expected = expected + column
    assert torch.equal(out, expected.float())


@pytest.mark.parametrize(
    ("source", "target"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_conversions_round_to_nearest_even(source, target):
    halfway = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8]
    extreme = [3.4e38, 1e-40, torch.inf, -torch.inf, torch.nan]
    a = torch.cat([draw(SIZE - 8, dtype=torch.float32), torch.tensor(halfway + extreme)]).to(source)
    out = torch.empty(SIZE, dtype=target)
    convert[(1,)](a, out, SIZE=SIZE)
    assert torch.equal(out.nan_to_num(nan=7.0), a.to(target).nan_to_num(nan=7.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_dots_read_their_operands_as_tensor_cores_do(dtype, precision):
    a, b = draw(SIZE, SIZE, dtype=dtype), draw(SIZE, SIZE, dtype=dtype, seed=1)
    out = torch.empty(SIZE, SIZE)
    product[(1,)](a, b, out, PRECISION=precision, SIZE=SIZE)
    if precision == "tf32" and dtype == torch.float32:
        a, b = nearest_tf32(a), nearest_tf32(b)
    # Products of 16 terms in float32; the loss that tf32 has is a hundred times as large.
    torch.testing.assert_close(out, (a.double() @ b.double()).float(), rtol=0, atol=4e-6)


def nearest_tf32(x):
    # Veltkamp's splitting: the nearest number of 11 significant bits, by arithmetic alone.
    scaled = x.double() * (2.0**42 + 1)
    return (scaled - (scaled - x.double())).float()


@pytest.mark.parametrize("reverse", [False, True])
def test_scans_with_two_numbers_keep_the_order_of_steps(reverse):
    factor, offset = draw(SIZE, SIZE, dtype=torch.float32), draw(SIZE, SIZE, dtype=torch.float32, seed=1)
    out = torch.empty_like(offset)
    affine_scan[(1,)](factor, offset, out, REVERSE=reverse, SIZE=SIZE)
    h, expected = torch.zeros(SIZE), torch.empty_like(offset)
    for t in reversed(range(SIZE)) if reverse else range(SIZE):
        h = expected[:, t] = factor[:, t] * h + offset[:, t]
    torch.testing.assert_close(out, expected)


def test_scans_combine_whole_slices(monkeypatch):
    calls = []
    combine = affine_combine.fn

    def counted(*values):
        calls.append(values[0].shape)
        return combine(*values)

    monkeypatch.setattr(affine_combine, "fn", counted)
    affine_scan[(1,)](*(draw(SIZE, SIZE, dtype=torch.float32) for _ in range(3)), REVERSE=False, SIZE=SIZE)
    assert len(calls) == SIZE - 1


@pytest.mark.parametrize("kept", [2, -2])
def test_a_boolean_spread_over_a_block_is_a_mask(kept):
    a = draw(SIZE, dtype=torch.float32)
    out = torch.full_like(a, 7.0)
    keep[(1,)](a, out, 5, kept, SIZE=SIZE)
    count = 5 if kept > 0 else 0
    assert torch.equal(out[:count], a[:count])
    assert (out[count:] == 7.0).all()


def test_a_loops_bounds_are_numbers_of_a_launch():
    out = torch.zeros(1, dtype=torch.int32)
    count[(1,)](out, 3, 12)
    assert out.item() == 5


def test_each_correction_is_needed():
    """Without conftest.py nothing is corrected: these very tests fail."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-q",
        "--tb=no",
        "-rf",
        "-k",
        "not needed",
        __file__,
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    failed = {
        line.split("::")[1].split(" ")[0] for line in result.stdout.splitlines() if line.startswith("FAILED")
    }
    assert failed >= {
        *(f"test_bfloat16_arithmetic_is_that_of_torch[{name}]" for name in ("add", "multiply", "divide")),
        "test_bfloat16_is_reduced_and_summed_up[total]",
        "test_a_custom_reduction_of_bfloat16_rounds_at_each_step",
        "test_conversions_round_to_nearest_even[source0-target0]",
        "test_dots_read_their_operands_as_tensor_cores_do[tf32-torch.float32]",
        "test_dots_read_their_operands_as_tensor_cores_do[ieee-torch.bfloat16]",
        "test_scans_combine_whole_slices",
        *(["test_a_boolean_spread_over_a_block_is_a_mask[2]"] if TRITON >= (3, 9) else []),
        *(["test_a_loops_bounds_are_numbers_of_a_launch"] if TRITON < (3, 7) and NUMPY >= (2, 4) else []),
    }, result.stdout
