"""The experiments with phase-field models: that they measure what they say they do, on toys."""

import json
import sys

import pytest
import torch

from benchmarks import incremental, needle, phase_field_quality, streaming
from phasefield.models.phase_field import SIZES


@pytest.fixture(autouse=True)
def _smaller_than_tiny(monkeypatch):
    memories = {"slots": {"type": "slots", "slots": 16}, "matrix": {"type": "matrix"}}
    shape = {"dim": 16, "num_layers": 1, "banks": "context", "memories": memories}
    monkeypatch.setitem(SIZES, "tiny", shape)


@pytest.fixture
def texts(tmp_path):
    paths = tmp_path / "a.txt", tmp_path / "b.txt"
    for path, words in zip(paths, ("to be or not ", "be a bee ant "), strict=True):
        path.write_text(words * 300)
    return [str(path) for path in paths]


def test_incremental_learning_leaves_a_model_as_it_was_once_its_shard_is_detached(texts):
    table = incremental.measure(*texts, steps=3, later_steps=2, slots=4, lr=1e-3)
    assert table["shard of B detached"] == table["trained on A"]
    assert table["shard of B attached"] != table["trained on A"] != table["fine-tuned on B"]


def test_a_needles_text_says_every_pair_twice_around_the_noise():
    tokens = needle.texts(5, 30, torch.Generator().manual_seed(0))
    first, noise, again = tokens.split([8, 30, 8], dim=1)
    assert (noise >= needle.KEYS + needle.VALUES).all()
    for row in range(5):
        pairs, repeated = (sorted(half[row].view(4, 2).tolist()) for half in (first, again))
        assert pairs == repeated
        assert len({key for key, _ in pairs}) == 4
        assert all(key < needle.KEYS <= value < needle.KEYS + needle.VALUES for key, value in pairs)


def test_values_are_asked_for_at_their_keys():
    model = needle.PhaseField(needle.PhaseFieldConfig(48, 8, 1, banks="context", memories="none")).eval()
    tokens = needle.texts(2, 2000, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, values = needle.recalled(model, tokens)
        whole, _ = model(tokens)
    assert values.equal(tokens[:, -7::2])
    # Read in pieces: float32 sums of a few thousand tokens.
    torch.testing.assert_close(logits, whole[:, -8::2], atol=1e-4, rtol=1e-3)


def test_a_stream_is_measured_at_each_length(monkeypatch):
    monkeypatch.setattr(streaming, "STEPS", 10)
    rows = streaming.measure("tiny", 5, 600)
    assert [row["tokens"] for row in rows] == [128, 256, 512, 600]
    assert all(row["step_us"] > 0 for row in rows)
    assert all(row["tensor_mb"] == rows[0]["tensor_mb"] > 0 for row in rows)  # windows of one length
    assert rows[0]["process_mb"] > rows[0]["tensor_mb"]


def test_rows_of_the_quality_table_are_trained_once(texts, tmp_path, monkeypatch, capsys):
    store = tmp_path / "rows.json"
    command = ["it", *texts, "--rows", "mamba", "no memory", "--steps", "1", "--store", str(store)]
    monkeypatch.setattr(sys, "argv", command)
    phase_field_quality.main()
    rows = json.loads(store.read_text())["rows"]
    assert rows.keys() == {"mamba", "no memory"}
    monkeypatch.setattr(phase_field_quality, "measure", lambda *arguments: pytest.fail("trained again"))
    printed = capsys.readouterr().out
    phase_field_quality.main()
    assert capsys.readouterr().out == printed
    full = phase_field_quality.match("phase_field", "tiny", 10, 128, None).parameters
    assert rows["mamba"]["parameters"] == pytest.approx(full, rel=0.1)
