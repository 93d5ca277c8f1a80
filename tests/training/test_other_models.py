"""Runs of models that differ from Landauer in what they keep, how they are tied, and what they measure."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from phasefield.data import ContiguousStreams, SubwordTokenizer, load_tokenizer
from phasefield.errors import UsageError
from phasefield.train import parse
from phasefield.training import RunFlags, load_model
from phasefield.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def toy_flags(flags):
    """Flags of a run of one of the toys."""

    def make(model, model_flags=None, size=None, **changes):
        return RunFlags(model, flags(**changes).run, model_flags or {}, size)

    return make


def test_a_run_with_a_state_of_many_parts_resumes_bit_for_bit(toy_flags, quietly, tmp_path, monkeypatch):
    options = {"steps": 14, "stateful": True, "weight_decay": 0.1, "warmup_steps": 3, "eval_every": 5}
    quietly(toy_flags("toy_recurrent", save_dir=str(tmp_path / "whole"), **options))
    fetch = ContiguousStreams.batch

    def interrupting(self, index):
        if index == 6:
            monkeypatch.setattr(ContiguousStreams, "batch", fetch)
            os.kill(os.getpid(), signal.SIGINT)
        return fetch(self, index)

    monkeypatch.setattr(ContiguousStreams, "batch", interrupting)
    parts = str(tmp_path / "parts")
    assert quietly(toy_flags("toy_recurrent", save_dir=parts, **options)).step == 7
    quietly(toy_flags("toy_recurrent", save_dir=parts, resume=True, **options))
    for file in ("model.safetensors", "trainer.safetensors"):
        whole, resumed = (
            load_file(RunFolder(tmp_path / name).latest() / file) for name in ("whole", "parts")
        )
        assert whole.keys() == resumed.keys()
        assert all(whole[name].equal(resumed[name]) for name in whole)
    assert {"carried.layers.0", "carried.layers.1", "carried.last.0"} <= whole.keys()


@pytest.mark.parametrize("model", ["toy_bigram", "toy_filler"])
def test_a_model_without_a_state_refuses_to_carry_one(model, toy_flags, quietly):
    with pytest.raises(UsageError, match=f"--stateful: {model} has no state to carry"):
        quietly(toy_flags(model, stateful=True))
    assert not os.path.exists(toy_flags(model).run.save_dir)


def test_tied_weights_are_saved_once_and_loaded_tied(toy_flags, quietly):
    quietly(toy_flags("toy_recurrent"))
    checkpoint = RunFolder(toy_flags("toy_recurrent").run.save_dir).latest()
    assert len({"embedding.weight", "head.weight"} & load_file(checkpoint / "model.safetensors").keys()) == 1
    model, _ = load_model(checkpoint)
    assert model.head.weight is model.embedding.weight


@pytest.fixture
def subwords(tmp_path, text_file):
    """A folder with a byte-level tokenizer of the text."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text_file.read_text()], vocab_size=290, show_progress=False)
    folder = tmp_path / "subwords"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_bits_per_character_count_characters_not_tokens(toy_flags, quietly, subwords, text_file):
    run = toy_flags("toy_bigram", tokenizer=str(subwords), eval_every=20)
    outcome = quietly(run)
    checkpoint = RunFolder(run.run.save_dir).latest()
    model, tokenizer = load_model(checkpoint)
    text = text_file.read_text()
    ids = tokenizer.encode(text[int(len(text) * 0.9) :])
    with torch.no_grad():
        nats = F.cross_entropy(model(ids[:-1])[0], ids[1:], reduction="sum").item()
    characters = len(tokenizer.decode(ids[1:]))
    assert characters > 1.5 * len(ids)
    assert outcome.validation["bits_per_character"] == pytest.approx(
        nats / characters / math.log(2), rel=1e-5
    )
    assert isinstance(load_tokenizer(checkpoint), SubwordTokenizer)


def test_the_cross_entropy_of_masked_tokens_is_named_and_gives_no_bits_per_character(toy_flags, quietly):
    outcome = quietly(toy_flags("toy_filler", eval_every=20))
    assert "content is the cross-entropy of masked tokens only" in quietly.text()
    assert "bits per character" not in quietly.text()
    assert "bits_per_character" not in outcome.validation


def test_a_size_gives_defaults_that_flags_beat_and_is_saved(toy_flags, quietly):
    assert parse(["toy_recurrent", "--size", "small"]).model_flags["hidden_dim"] == 12
    assert parse(["toy_recurrent", "--size=small", "--hidden-dim", "10"]).model_flags["hidden_dim"] == 10
    run = toy_flags("toy_recurrent", size="small", steps=3)
    assert run.model_flags["hidden_dim"] == 12
    quietly(run)
    where = [f"--save-dir={run.run.save_dir}", "--resume", "--steps=4"]
    for again in (["toy_recurrent", *where], ["toy_recurrent", "--size", "small", *where]):
        resumed = parse(again)
        assert (resumed.size, resumed.model_flags["hidden_dim"]) == ("small", 12)
    assert quietly(resumed).step == 4
    saved = json.loads((RunFolder(run.run.save_dir).latest() / "trainer.json").read_text())
    assert saved["size"] == "small"
    with pytest.raises(UsageError, match=r"--size is tiny, but the run .* was started with small"):
        quietly(parse(["toy_recurrent", "--size", "tiny", *where]))


def test_a_model_has_training_defaults_of_its_own_that_flags_beat():
    run = parse(["toy_recurrent", "--lr", "0.5"]).run
    assert (run.lr, run.seq_len, run.weight_decay, run.batch_size) == (0.5, 16, 0.1, 8)
    assert run == replace(parse(["toy_recurrent"]).run, lr=0.5)
    assert (run.warmup_steps, parse(["toy_recurrent", "--steps", "30"]).run.warmup_steps) == (100, 30)


@pytest.mark.parametrize("name", [["landauer"], []])
def test_a_models_flag_may_bring_defaults_of_training(name):
    assert parse([*name, "--cell", "lru"]).run == replace(parse(name).run, decay_epochs=8.0)
    assert parse([*name, "--cell=aperiodic"]).run == parse(name).run
    assert parse([*name, "--cell", "lru", "--decay-epochs", "0"]).run == parse(name).run


def test_the_help_shows_the_models_own_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(["toy_recurrent", "--size", "small", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "of the model: tiny, small; flags given beside it win (default: small)" in text
    assert "(default: 0.01)" in text
    assert "(default: 12)" in text


def test_checkpoints_from_before_sizes_and_tokenizers_resume(flags, quietly):
    run = flags(steps=3)
    quietly(run)
    path = RunFolder(run.run.save_dir).latest() / "trainer.json"
    saved = json.loads(path.read_text())
    del saved["size"]
    for name in ("tokenizer", "weight_decay", "beta1", "beta2"):
        del saved["flags"][name]
    path.write_text(json.dumps(saved))
    manifest = path.with_name("manifest.json")
    digests = json.loads(manifest.read_text())
    del digests["sha256"]["trainer.json"]
    manifest.write_text(json.dumps(digests))
    assert quietly(parse(["--resume", f"--save-dir={run.run.save_dir}", "--steps=5"])).step == 5
