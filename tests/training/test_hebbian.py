"""The Hebbian loop, from the outside: runs, checkpoints, resuming, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from phasefield import evaluate as evaluate_command
from phasefield import generate as generate_command
from phasefield import train as train_command
from phasefield.data import pieces
from phasefield.errors import UsageError, UserError
from phasefield.models import MODELS
from phasefield.training import RunFlags, TrainConfig, find_checkpoint, load_model, passes
from phasefield.training.checkpoint import read_json
from phasefield.training.hebbian import boundaries, train_hebbian
from phasefield.training.passes import Passes

SMALL = {"contexts": "0 1 2 3 w w1", "sites": 4096, "horizon": 16, "perturbation_schedule": '{"3": "levy"}'}


@pytest.fixture
def field_flags(tmp_path, text_file):
    def make(model=None, **changes):
        config = TrainConfig(
            data_path=str(text_file),
            save_dir=str(tmp_path / "run"),
            batch_size=4,
            seq_len=32,
            lr=0.05,
            steps=8,
            save_every=100,
            eval_every=0,
            device="cpu",
            log_with="none",
        )
        return RunFlags("field", replace(config, **changes), {**SMALL, **(model or {})})

    return make


def weights(folder):
    return load_file(find_checkpoint(folder) / "model.safetensors")


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("blocks", [1, 2, 4, 13])
def test_each_pass_covers_the_text_once_and_leaps_by_the_golden_section(blocks, seed):
    batches = Passes(torch.arange(24 * blocks + 5), 3, 8, seed)
    assert batches.batches == blocks
    firsts = []
    for index in range(blocks):
        inputs, targets = batches.batch(index)
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs.flatten(), torch.arange(24) + inputs[0, 0])
        firsts.append(int(inputs[0, 0]) // 24)
    assert sorted(firsts) == list(range(blocks))
    leaps = {(b - a) % blocks for a, b in zip(firsts, firsts[1:], strict=False)}
    assert leaps == {1: set(), 2: {1}, 4: {3}, 13: {8}}[blocks]
    assert torch.equal(batches.batch(blocks)[0], batches.batch(0)[0])
    assert [batches.repeats(index) for index in (0, blocks - 1, blocks)] == [False, False, True]


def test_a_text_shorter_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="batch of 3 windows"):
        Passes(torch.arange(24), 3, 8)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(field_flags, tmp_path, dtype):
    # The text is shorter than 40 blocks: its second pass, with its forgetting, lies after the stop.
    whole = field_flags({"state_dtype": dtype}, steps=40, save_dir=str(tmp_path / "whole"))
    train_hebbian(whole)
    parts = field_flags({"state_dtype": dtype}, steps=40)
    assert Passes(torch.zeros(find_train_length(parts), dtype=torch.int64), 4, 32).batches < 40
    stopped = stop_at(17, lambda: train_hebbian(parts))
    assert stopped.step == 17
    train_hebbian(replace(parts, run=replace(parts.run, resume=True)))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    histories = [
        read_json(find_checkpoint(tmp_path / folder) / "trainer.json")["losses"]
        for folder in ("whole", "run")
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("tokenizer", ["char", "morphological"])
def test_a_resumed_stream_equals_one_that_never_stopped_bit_for_bit(
    field_flags, tmp_path, monkeypatch, tokenizer
):
    monkeypatch.setattr(passes, "CHUNK", 3)
    monkeypatch.setattr(pieces, "_PIECE", 200)
    monkeypatch.setattr(pieces, "SAMPLE", 600)
    path = tmp_path / "text.txt"
    path.write_text(path.read_text()[:1500])  # ten steps a pass
    options = {"stream": True, "steps": 13, "tokenizer": tokenizer}
    whole = field_flags(save_dir=str(tmp_path / "whole"), **options)
    train_hebbian(whole)
    parts = field_flags(**options)
    for stop in (5, 6):  # the second time in the second pass
        stop_at(stop, lambda parts=parts: train_hebbian(parts))
        parts = replace(parts, run=replace(parts.run, resume=True))
    train_hebbian(parts)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = [read_json(find_checkpoint(tmp_path / name) / "trainer.json") for name in ("whole", "run")]
    assert saved[0]["losses"] == saved[1]["losses"]
    assert saved[0]["stream"] == saved[1]["stream"]
    assert saved[0]["stream"]["pass"] > 0


def test_a_stream_may_hold_characters_that_its_beginning_does_not(field_flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pieces, "SAMPLE", 300)
    path = tmp_path / "text.txt"
    path.write_text(path.read_text()[:3000] + "Привет" * 20 + path.read_text()[3000:])
    train_hebbian(field_flags(stream=True, steps=20, eval_every=20))
    output = " ".join(capsys.readouterr().out.split())
    assert "text.txt: streamed, " in output
    assert "[val]: beginning of the validation split, 299 tokens" in output
    _, tokenizer = load_model(find_checkpoint(field_flags().run.save_dir))
    assert tokenizer.decode(tokenizer.encode("7 Прив")) == "7 ����"
    scores = read_json(find_checkpoint(field_flags().run.save_dir) / "trainer.json")["validations"]
    assert evaluate_command.run(["--checkpoint", field_flags().run.save_dir]) == 0
    output = capsys.readouterr().out
    assert f"content {scores[-1]['content']:.4f}" in output
    assert "text.txt: beginning of the validation split" in output


def find_train_length(flags):
    with open(flags.run.data_path, encoding="utf-8") as file:
        return int(len(file.read()) * 0.9)


def stop_at(step, run):
    """Run with a signal that comes while the step after ``step - 1`` is learnt."""
    import signal

    from phasefield.models import Field

    calls, learn = [], Field.learn_

    def counted(self, *arguments, **options):
        calls.append(None)
        if len(calls) == step:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, *arguments, **options)

    Field.learn_ = counted
    try:
        return run()
    finally:
        Field.learn_ = learn


def test_training_runs_in_inference_mode_and_leaves_ordinary_weights(field_flags, monkeypatch):
    from phasefield.models import Field

    seen, learn = [], Field.learn_

    def watched(self, *arguments, **options):
        seen.append((torch.is_inference_mode_enabled(), any(b.is_inference() for b in self.buffers())))
        return learn(self, *arguments, **options)

    monkeypatch.setattr(Field, "learn_", watched)
    train_hebbian(field_flags(steps=3, eval_every=2))
    assert seen == [(True, False)] * 3


def test_it_learns_its_text(field_flags):
    outcome = train_hebbian(field_flags(steps=28, eval_every=28))
    assert outcome.validation["content"] < 0.6  # a text of numbered lines; ln 29 = 3.4 untrained
    assert outcome.step == 28


def test_the_seed_decides_the_order_perturbations_and_rounding(field_flags, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_hebbian(field_flags({"state_dtype": "bf16"}, save_dir=str(tmp_path / name), seed=seed))
        runs.append(weights(tmp_path / name))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_the_commands_train_evaluate_and_generate(field_flags, tmp_path, capsys):
    run = field_flags().run
    arguments = ["field", "--data-path", run.data_path, "--save-dir", run.save_dir, "--batch-size", "4"]
    arguments += ["--seq-len", "32", "--steps", "6", "--sites", "4096", "--eval-every", "6"]
    assert train_command.run([*arguments, "--perturbation-schedule", '{"0": "beta", "4": "adaptive"}']) == 0
    assert "adaptable numbers, no gradient" in capsys.readouterr().out
    assert evaluate_command.run(["--checkpoint", run.save_dir]) == 0
    scores = read_json(find_checkpoint(run.save_dir) / "trainer.json")["validations"]
    assert f"content {scores[-1]['content']:.4f}" in capsys.readouterr().out
    assert (
        generate_command.run(["--checkpoint", run.save_dir, "--prompt", "7 bot", "--max-new-tokens", "9"])
        == 0
    )
    assert len(capsys.readouterr().out) == 5 + 9 + 1


def test_the_tokenizer_says_what_stands_between_words(field_flags):
    train_hebbian(field_flags(steps=1))
    model, tokenizer = load_model(find_checkpoint(field_flags().run.save_dir))
    between = {
        symbol for symbol, is_one in zip(tokenizer.symbols, boundaries(tokenizer), strict=True) if is_one
    }
    assert between == {" ", "\n", ",", "."}
    assert torch.equal(model.phases.boundary, boundaries(tokenizer))


def test_the_adaptable_numbers_are_what_learning_changes(field_flags):
    model = MODELS["field"].model_class(MODELS["field"].config_class(29, **SMALL))
    assert dict(model.adaptable()) == {
        "crystal's contexts, occurrences and followers": 2 * 4096,
        "crystal's bonds": 4096,
        "mixture's weights": 7 * 24 + (257 + 22 + 5 * 3 + 9) * 7,
    }


def test_what_cannot_run_is_refused(field_flags):
    with pytest.raises(UserError, match="sites is 1000"):
        train_hebbian(field_flags({"sites": 1000}))
    with pytest.raises(UserError, match="batch of 4 windows of 5000"):
        train_hebbian(field_flags(seq_len=5000))
    with pytest.raises(UserError, match=r"the text has .* a batch of 4 windows of 5000"):
        train_hebbian(field_flags(seq_len=5000, stream=True))
    with pytest.raises(UserError, match="dataset is 'shakespeare', which is no stream"):
        train_hebbian(field_flags(data_path=None, stream=True))
    with pytest.raises(UserError, match=r"'c4' has hundreds of gigabytes .* --stream reads it"):
        train_hebbian(field_flags(data_path=None, dataset="C4"))
    with pytest.raises(UsageError, match="--epochs is 2, but the length of a stream"):
        field_flags(epochs=2, stream=True)
    with pytest.raises(UsageError, match=r"--stream: landauer draws .* stream is field"):
        RunFlags("landauer", TrainConfig(stream=True), {})
    train_hebbian(field_flags(steps=2))
    with pytest.raises(UsageError, match="horizon"):
        train_hebbian(field_flags({"horizon": 17}, resume=True))
