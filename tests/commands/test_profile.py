"""`profile`: every model can be measured, each part's time is its own, and the model stays as it was."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.models import MODELS
from phasefield.profiling.measure import Workload
from phasefield.profiling.parts import PartTimes, parts_timed

CPU = torch.device("cpu")


class Inner(nn.Module):
    def forward(self, clock):
        clock.now += 3


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.inner.deeper = nn.ModuleList([Inner()])

    def forward(self, clock):
        clock.now += 1
        self.inner(clock)
        self.inner.deeper[0](clock)


class Memory(nn.Module):
    def read(self, clock):
        clock.now += 10


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.memory = Memory()

    def run(self, clock):
        clock.now += 0.5
        for block in self.blocks:
            block(clock)
        self.memory.read(clock)


def test_each_parts_time_is_its_own_and_repeated_parts_are_one():
    clock, model = SimpleNamespace(now=0.0), Model()
    times = PartTimes(CPU, lambda: clock.now)
    with parts_timed(model, times), times.timed("rest"):
        model.run(clock)
    # What is three names deep (inner.deeper) counts as the part it is called by.
    assert times.seconds == {"rest": 0.5, "blocks.*": 2 * (1 + 3), "blocks.*.inner": 2 * 3, "memory": 10}
    assert sum(times.seconds.values()) == clock.now
    assert times.calls == {"rest": 1, "blocks.*": 2, "blocks.*.inner": 2, "memory": 1}
    model.run(clock)
    assert sum(times.seconds.values()) < clock.now
    assert not any("forward" in vars(module) or "read" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_package_can_be_measured(name):
    torch.manual_seed(0)
    entry = MODELS[name]
    size = dict(next(iter(entry.sizes.values()), {"hidden_dim": 16}))
    size |= {"sites": 2**10} if name == "field" else {}
    model = entry.model_class(entry.config_class(11, **size))
    result = Workload(model, 2, 9, 11, CPU).measure(1)
    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    for kind in ("training", "reading"):
        measured = result[kind]
        assert measured["tokens_per_second"] == pytest.approx(18 / measured["seconds"])
        assert 0 < measured["tokens_per_processor_second"] < math.inf
        assert measured["peak_bytes"] > weights
    if not entry.local:  # Adam keeps two numbers a weight, the gradient is a third
        parameters = sum(p.numel() * p.element_size() for p in model.parameters())
        assert result["training"]["peak_bytes"] > weights + 3 * parameters
    own = {"rest", "crystal", "mixture"} if entry.local else {"rest", "backward", "optimizer"}
    assert own < result["parts"].keys()
    assert all(seconds >= 0 for seconds in result["parts"].values())


def test_profile_writes_a_table_numbers_and_a_trace(tmp_path, monkeypatch, toys, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = (
        "profile toy_recurrent --batch-sizes 3,1 --seq_lengths 8,4 --symbols 7 --repeats 1 --device cpu"
    )
    assert command_line.run(dispatch, arguments.split()) == 0
    output = capsys.readouterr().out
    results = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert [(cell["batch_size"], cell["seq_len"]) for cell in results["cells"]] == [
        *[(1, 4), (1, 8), (3, 4), (3, 8)],
    ]
    report = (tmp_path / "profile" / "profile.md").read_text()
    row = f"| 3 | 8 | {results['cells'][3]['training']['tokens_per_second']:,.0f} |"
    assert row in report
    assert row in output
    assert "| training step by part | 1 × 4 | 3 × 8 |" in report
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"rest", "backward", "optimizer", "cells.*"} <= names


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        ("profile landuaer", 2, "there is no model 'landuaer'"),
        ("profile --batch-sizes 1,many", 2, "--batch-sizes is '1,many'; it must be numbers of at least 1"),
        ("profile --seq-lengths 0", 2, "--seq-lengths is '0'"),
        ("profile --symbols 0", 2, "--symbols is 0; it must be at least 1"),
        ("profile mamba --size huge", 2, "--size is 'huge', which mamba does not have"),
        ("profile --device gpu", 2, "--device is 'gpu'"),
        ("profile --output file/x", 1, "--output file/x cannot be written"),
    ],
)
def test_a_bad_call_is_one_paragraph_that_names_the_cause(
    arguments, code, cause, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert command_line.run(dispatch, arguments.split()) == code
    output, error = capsys.readouterr()
    assert error.startswith("error: ")
    assert cause in error
    assert error.count("\n") == 1
    assert output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
