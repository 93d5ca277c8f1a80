"""Every model of the package is among the runs whose step is measured, and a row is stored whole."""

import json
import sys

import pytest

from benchmarks import training_step
from phasefield.models import MODELS
from phasefield.train import parse


def test_every_model_and_every_kind_of_it_that_trains_otherwise_is_run():
    runs = training_step.runs()
    assert MODELS.keys() < runs.keys()
    assert runs["landauer-lru"] == ["landauer", "--cell", "lru"]
    for name, arguments in runs.items():
        assert parse(arguments).model == name.partition("-")[0]


def test_rows_are_printed_and_stored_with_their_settings(tmp_path, monkeypatch, capsys):
    small = ["landauer", "--hidden-dim", "6", "--batch-size", "2", "--seq-len", "8"]
    monkeypatch.setattr(training_step, "runs", lambda: {"landauer": small, "mamba": ["mamba"]})
    arguments = ["landauer", "--steps", "10", "--store", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["training_step", *arguments])
    training_step.main()
    stored = json.loads((tmp_path / "rows.json").read_text())
    assert stored["settings"]["torch"]
    assert stored["steps"] == 10
    (row,) = stored["rows"].values()
    assert row["arguments"] == " ".join(small)
    assert (row["batch_size"], row["seq_len"]) == (2, 8)
    assert row["parts"].keys() <= set(training_step.PARTS)
    assert sum(row["parts"].values()) == pytest.approx(row["seconds"])
    assert f"landauer{1e3 * row['seconds']:28.2f}" in capsys.readouterr().out


def test_an_unknown_model_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training_step", "landuaer"])
    with pytest.raises(SystemExit):
        training_step.main()
    assert "there is no landuaer; there are landauer, landauer-lru, field" in capsys.readouterr().err
