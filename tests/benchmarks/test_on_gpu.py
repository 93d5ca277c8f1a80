"""What a GPU's owner runs: everything of it that needs no GPU."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")

import torch

from benchmarks import on_gpu
from benchmarks.compile_gate import ROOT, compiler_environment

MEASURED = [
    {"op": "scan", "path": "forward", "measured_ms": 3.0},
    {"op": "scan", "path": "step", "measured_ms": 0.02},
]
PREDICTED = [
    {"op": "scan", "path": "forward", "card": "RTX 3070", "predicted_ms": 2.0, "limiting": "memory"},
    {"op": "scan", "path": "forward", "card": "RTX 3090", "predicted_ms": 1.0, "limiting": "memory"},
]


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 3070", "RTX 3070"),
        ("NVIDIA GeForce RTX 3070 Ti", None),
        ("NVIDIA GeForce RTX 3070 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090 D", None),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 2080", None),
    ],
)
def test_a_card_is_known_by_its_device_name_and_its_relatives_are_not(name, card):
    assert on_gpu.card_of(name) == card


def test_measured_times_stand_beside_what_was_predicted_for_the_card():
    first, second = on_gpu.against_predictions(MEASURED, PREDICTED, "RTX 3070")
    assert first == MEASURED[0] | {"predicted_ms": 2.0, "limiting": "memory", "ratio": 1.5}
    assert second == MEASURED[1] | {"predicted_ms": None, "limiting": None, "ratio": None}
    unknown = on_gpu.against_predictions(MEASURED, PREDICTED, None)
    assert [row["ratio"] for row in unknown] == [None, None]


def test_a_part_that_fails_is_told_and_the_others_are_kept(tmp_path):
    def broken():
        raise ValueError("no such kernel")

    wrong = {"op": "scan", "good": False, "verdict": "FAILED, largest relative error 1.0", "first_call_s": 1}
    said = []
    found = on_gpu.run(
        {
            "correctness": lambda: [wrong],
            "models": broken,
            "predictions": lambda: on_gpu.against_predictions(MEASURED, PREDICTED, "RTX 3090"),
        },
        said.append,
    )
    assert on_gpu.failures(found) == [
        "models: ValueError: no such kernel",
        "scan: FAILED, largest relative error 1.0",
    ]
    assert said[1].endswith("FAILED")
    text = on_gpu.markdown({"device": "cuda", "gpu": "a card"}, found)
    assert text.startswith("## Measured on a card\n")
    assert "- models: ValueError: no such kernel" in text
    assert "| scan | forward | 3 | 1 | memory | 3 |" in text
    on_gpu.plot(found["predictions"]["rows"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_calls_are_timed_by_their_median(monkeypatch):
    now = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(on_gpu.time, "perf_counter", lambda: next(now))
    calls = []
    assert on_gpu.seconds(lambda: calls.append(1), torch.device("cpu")) == 2.0
    assert len(calls) == 4  # one to warm up


def test_the_dry_run_checks_every_op_and_writes_its_report(tmp_path):
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--device", "cpu", "--output", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=compiler_environment(), capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    from phasefield.doctor import CHECKS
    from phasefield.models import MODELS

    assert {row["op"] for row in parts["correctness"]["rows"]} == set(CHECKS)
    assert all(row["good"] for row in parts["correctness"]["rows"])
    assert {row["model"] for row in parts["models"]["rows"]} == set(MODELS)
    assert all(row["train_tokens_s"] > 0 for row in parts["models"]["rows"])
    assert (tmp_path / "section.md").read_text().startswith("## Measured on cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_missing_gpu_is_told_in_words():
    command = [sys.executable, "-m", "benchmarks.on_gpu"]
    process = subprocess.run(command, cwd=ROOT, env=compiler_environment(), capture_output=True, text=True)
    assert process.returncode == 2
    assert "PyTorch sees no GPU here; allowed is cpu" in process.stderr
