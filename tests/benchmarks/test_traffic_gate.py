"""Every path of every op moves no more than its bound, without races and inside its tensors."""

import os

import pytest

pytest.importorskip("triton")

import torch
import triton
import triton.language as tl

from benchmarks import baseline, traffic
from benchmarks.case import LOOSE, ONE_PASS, Case, Scan, Work
from benchmarks.cases import OPS
from benchmarks.traffic import ALL, measure
from phasefield_kernels import aperiodic_scan, golden_phases

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="traffic is counted in Triton's interpreter"
)

CASES = [
    pytest.param(op, case, id=f"{op}, {case.name}", marks=[] if case.quick else pytest.mark.full_matrix)
    for op, cases in OPS.items()
    for case in cases()
    if case.bound
]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Not here: filling fresh memory would count."""


KEYS = ("op", "path", "tensor")
STORED = baseline.read(traffic.BASELINE)


@pytest.mark.parametrize(("op", "case"), CASES)
def test_traffic_stays_within_its_bound_and_is_no_more_than_it_was(op, case):
    result = measure(case)
    assert result.faults == []
    rows = list(traffic.rows(op, case, result))
    assert baseline.compare(STORED, rows, KEYS, traffic.regressions).worse == []


def test_a_bound_that_is_exceeded_is_told():
    (case, *_) = (param.values[1] for param in CASES)
    strict = case._replace(bound=case.bound._replace(unique=0.5))
    (fault,) = measure(strict).faults
    assert fault.endswith("allowed 0.500")


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, 2 * tl.load(x_ptr + i, mask=i < n), mask=i < n)


def quadruple(passes):
    x, between, y = torch.randn(1000), torch.empty(1000), torch.empty(1000)

    def run():
        for source, target in ((x, between), (between, y))[-passes:]:
            double[(4,)](source, target, 1000, BLOCK=256)
        return [y]

    return Case("synthetic", lambda: Work(run, [x]), ONE_PASS._replace(unique=3.0), quick=True)


def test_an_extra_pass_over_memory_that_a_loose_bound_allows_fails_against_the_baseline():
    once, twice = (list(traffic.rows("toy", quadruple(n), measure(quadruple(n)))) for n in (1, 2))
    assert (once[0]["tensor"], once[0]["unique"], once[0]["bound"], once[0]["ratio"]) == (ALL, 8000, 8000, 1)
    worse = baseline.compare(once, twice, KEYS, traffic.regressions).worse
    assert worse == [
        "toy, synthetic, all: requested 8000 -> 16000; unique 8000 -> 16000; launches 1 -> 2",
        "toy, synthetic, double x_ptr: requested 4000 -> 8000; unique 4000 -> 8000",
        "toy, synthetic, double y_ptr: requested 4000 -> 8000; unique 4000 -> 8000",
    ]
    assert baseline.compare(twice, once, KEYS, traffic.regressions).worse == []


def test_a_copy_that_an_operator_makes_before_its_launch_fails_against_the_baseline():
    def by_time_last(u):
        inputs = {"u": u, "scale": torch.rand(16), "phase": golden_phases(16), "initial_state": None}
        return Scan("synthetic", aperiodic_scan, lambda: inputs).forward(LOOSE)

    u = torch.randn(2, 16, 8)
    as_read, copied = (
        list(traffic.rows("toy", case, measure(case)))
        for case in (by_time_last(u.mT.contiguous()), by_time_last(u.mT))
    )
    worse = baseline.compare(as_read, copied, KEYS, traffic.regressions).worse
    before = as_read[0]["torch"]
    assert worse == [f"toy, synthetic, forward, all: torch {before} -> {before + 2 * 4 * u.numel()}"]


def test_a_cases_figures_do_not_depend_on_what_ran_before():
    newton = next(p.values[1] for p in CASES if p.values[1].name.startswith("newton"))
    torch.manual_seed(1)
    first = measure(newton)
    torch.manual_seed(2)
    assert measure(newton) == first
