"""Who takes part in a race, the proof before it, and the numbers of its rows."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import race as racing
from benchmarks.bench_hebbian_scan import HEBB
from benchmarks.bench_phase_matmul import OPERATION as MATMUL
from benchmarks.bench_rotation_scan import CONSTANT
from benchmarks.bench_selective_scan import OPERATION as SELECTIVE
from benchmarks.clock import FEWEST, CpuClock
from benchmarks.operation import FORWARD, PIECE, STEP, STREAM, TRAINING, Operation, Peer, Race, races

FILES = sorted((Path(__file__).parents[2] / "benchmarks").glob("bench_*.py"))
OPERATIONS = [
    value
    for path in FILES
    for value in vars(importlib.import_module(f"benchmarks.{path.stem}")).values()
    if isinstance(value, Operation)
]
RATES = {
    "copy_gb_s": {"1000": 10.0},
    "gemm_gflop_s": {"float32": 100.0, "bfloat16": 400.0},
    "exp_g_s": 0.5,
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.title)
def test_everybody_computes_what_the_definition_says(operation):
    proved = set()
    for race in races(operation):
        for competitor in racing.competitors(race, "cpu"):
            stepping = race.pass_ == STEP
            if racing.absent(competitor, race, "cpu") is None and (competitor, stepping) not in proved:
                racing.prove(operation, competitor, stepping, "cpu")
                proved.add((competitor, stepping))
    assert len(proved) >= 2


def _peer(**changes):
    return racing.Competitor("changed", replace(CONSTANT.peers[0], **changes), None)


def test_a_peer_with_another_output_is_caught():
    changed = _peer(run=lambda **inputs: CONSTANT.peers[0].run(**inputs) * (1 + 1e-8))
    with pytest.raises(AssertionError, match="output off by 1"):
        racing.prove(CONSTANT, changed, False, "cpu")


def test_a_peer_with_another_gradient_is_caught():
    def run(x, angle, log_decay):
        return CONSTANT.peers[0].run(
            x=x, angle=angle, log_decay=log_decay.detach() * (1 - 1e-9) + 1e-9 * log_decay
        )

    with pytest.raises(AssertionError, match=r"gradient off by 1\.0e\+00"):
        racing.prove(CONSTANT, _peer(run=run), False, "cpu")


def test_a_step_that_forgets_its_state_is_caught():
    forgetful = Peer("forgetful", lambda x, state, **_: x, CONSTANT.step_peers[0].layout)
    with pytest.raises(AssertionError, match="output off"):
        racing.prove(CONSTANT, racing.Competitor("forgetful", forgetful, None), True, "cpu")


def _race(operation, pass_, dtype=torch.float32, **sizes):
    return Race(operation, {**operation.small, **sizes}, dtype, pass_, "typical", quick=True)


def test_who_is_absent_is_told_why():
    race = _race(SELECTIVE, TRAINING, T=512)
    reasons = {
        competitor.name: racing.absent(competitor, race, "cpu")
        for competitor in racing.competitors(race, "cpu")
    }
    assert reasons["phasefield torch"] is None
    native = next(c for c in racing.competitors(race, "cpu") if c.backend == "native")
    assert "no native form" in racing.absent(native, _race(MATMUL, FORWARD), "cpu")
    assert reasons["mamba_ssm"] == "mamba_ssm has no form for a CPU"
    assert "time by T²" in reasons["transformers Mamba"]
    missing = racing.Competitor("x", Peer("x", torch.add, package="no_such_package"), None)
    assert racing.absent(missing, race, "cpu") == "no_such_package is not installed"
    narrow = racing.Competitor("x", Peer("x", torch.add, dtypes=(torch.bfloat16,)), None)
    assert racing.absent(narrow, race, "cpu") == "x does not take torch.float32"


def test_the_reference_races_at_small_sizes_and_triton_on_a_gpu_alone():
    def backends(race, device):
        return [c.backend for c in racing.competitors(race, device) if c.peer is None]

    assert backends(_race(CONSTANT, FORWARD, T=256), "cpu") == ["native", "torch", "reference"]
    assert backends(_race(CONSTANT, FORWARD, T=257), "cpu") == ["native", "torch"]
    assert backends(_race(CONSTANT, FORWARD, T=257), "cuda") == ["triton", "torch"]
    names = [c.name for c in racing.competitors(_race(CONSTANT, STREAM), "cpu")]
    assert names == ["phasefield native", "phasefield torch"]


def test_bytes_are_counted_by_hand_for_a_rotation():
    inputs = racing.inputs_of(CONSTANT, {"B": 2, "T": 5, "D": 3}, torch.bfloat16, "cpu")
    x, parameters = 2 * 5 * 3 * 2 * 2, 3 * 8 + 3 * 4
    shape = {"B": 2, "T": 5, "D": 3}
    for pass_, wanted in (
        (FORWARD, x + parameters + x),
        (TRAINING, 2 * (x + parameters) + 2 * x + x + parameters),
    ):
        race = Race(CONSTANT, shape, torch.bfloat16, pass_, "typical", quick=True)
        assert racing.moved_bytes(race, inputs) == wanted
    token = racing.inputs_of(CONSTANT, {"B": 2, "D": 3}, torch.bfloat16, "cpu")
    step = Race(CONSTANT, {"B": 2, "D": 3}, torch.bfloat16, STEP, "typical", quick=True)
    assert racing.moved_bytes(step, token) == 2 * 2 * 3 * 2 * 2 + parameters + 2 * 2 * 3 * 2 * 4


@pytest.mark.parametrize("pass_", [FORWARD, TRAINING, STEP])
def test_a_race_gives_a_row_to_everybody_who_takes_part(monkeypatch, pass_):
    monkeypatch.setattr(racing, "SECONDS", 0.0)
    race = _race(HEBB, pass_)
    rows = racing.run_race(race, "cpu", CpuClock(), RATES)
    names = [c.name for c in racing.competitors(race, "cpu") if racing.absent(c, race, "cpu") is None]
    assert list(rows) == names
    for row in rows.values():
        assert row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
        assert row["ratio"] == pytest.approx(row["median_ms"] / row["bound_ms"], rel=1e-3)
        assert row["rounds"] == len(row["samples"]) == FEWEST
    work = HEBB.work({"T": 1, **race.shape})
    flops = work.flops * (3 if pass_ == TRAINING else 1)
    first = rows[names[0]]
    assert first["gflop_s"] == pytest.approx(flops / first["median_ms"] / 1e6, rel=1e-3)


def test_a_streamed_sequence_goes_in_pieces_from_state_to_state():
    shape = {"B": 1, "T": 2 * PIECE + 3, "D": 2}
    race = Race(CONSTANT, shape, torch.float32, STREAM, "lengths", quick=False)
    inputs = racing.inputs_of(CONSTANT, shape, torch.float32, "cpu")
    competitor = next(racing.competitors(race, "cpu"))
    state = racing.prepared(race, competitor, inputs)()
    whole = CONSTANT.call(**inputs, backend="torch")[1]
    # Each piece's state is rounded once.
    torch.testing.assert_close(state, whole, rtol=1e-5, atol=1e-5)


def test_inputs_are_the_same_for_everybody_and_not_zeros():
    one, other = (racing.inputs_of(SELECTIVE, SELECTIVE.small, torch.float32, "cpu") for _ in range(2))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])
        assert tensor.std() > 0
