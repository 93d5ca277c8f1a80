"""Every path of every op moves no more than its bound, without races and inside its tensors."""

import os

import pytest

pytest.importorskip("triton")

from benchmarks.cases import OPS
from benchmarks.traffic import measure

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="traffic is counted in Triton's interpreter"
)

CASES = [
    pytest.param(case, id=f"{op}, {case.name}", marks=[] if case.quick else pytest.mark.full_matrix)
    for op, cases in OPS.items()
    for case in cases()
    if case.bound
]


@pytest.mark.parametrize("case", CASES)
def test_traffic_stays_within_its_bound(case):
    assert measure(case).faults == []


def test_a_bound_that_is_exceeded_is_told():
    (case, *_) = (param.values[0] for param in CASES)
    strict = case._replace(bound=case.bound._replace(unique=0.5))
    (fault,) = measure(strict).faults
    assert fault.endswith("allowed 0.500")
