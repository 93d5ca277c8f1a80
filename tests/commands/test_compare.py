"""Comparisons from the command line: whole, interrupted, and resumed."""

import json
import os
import re
import shutil
import signal
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.comparison.judge import Judge
from phasefield.data import RandomWindows, load_corpus
from phasefield.models import MODELS as REGISTRY
from phasefield.training import evaluate, load_model
from phasefield.training.run_folder import RunFolder
from tests.machinery.toy_models import TOYS

MODELS = ("toy_recurrent", "toy_bigram", "toy_filler")
COMPARE = (
    f"compare --models {' '.join(MODELS)} --data-path text.txt --device cpu --steps 3 --seeds 2 "
    "--seq-len 8 --batch-size 2 --prompt-lengths 5 40 --parameters 1300"
)


@pytest.fixture
def call(workplace, toys, capsys):
    """Run a command line in this process; its exit code and what it printed."""

    def run(line):
        code = command_line.run(dispatch, line.split())
        return code, *capsys.readouterr()

    return run


def results_in(folder):
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A comparison's folder, and which inputs the models were given for each seed and index."""
    folder, given = tmp_path_factory.mktemp("compared"), {}
    fetch = RandomWindows.batch

    def spy(self, index):
        inputs, targets = fetch(self, index)
        if self.batch_size == 2:  # not the look whether a model can read its sequences
            given.setdefault((self.seed, index), []).append(inputs)
        return inputs, targets

    shutil.copy(trained / "text.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(RandomWindows, "batch", spy)
        for name, entry in TOYS.items():
            patch.setitem(REGISTRY, name, entry)
        assert command_line.run(dispatch, f"{COMPARE} --save-dir whole".split()) == 0
    return folder, given


def test_all_models_read_the_same_batches(whole):
    _, given = whole
    # In both trainings, and in measuring from seed 0.
    assert {(seed, index) for seed in (0, 1) for index in range(3)} <= given.keys()
    assert all(inputs.equal(batch[0]) for batch in given.values() for inputs in batch)
    assert all(len(given[1, index]) == 3 for index in range(3))


def test_a_comparison_reports_what_can_be_measured_again(whole, toys, monkeypatch):
    monkeypatch.chdir(whole[0])
    results = results_in("whole")
    corpus = load_corpus(data_path="text.txt")
    for name, of_model in results["models"].items():
        assert abs(of_model["parameters"] / 1300 - 1) < 0.1
        for seed in (0, 1):
            model, tokenizer = load_model(RunFolder(f"whole/runs/{name}-seed{seed}").latest())
            assert sum(p.numel() for p in model.parameters()) == of_model["parameters"]
            again = evaluate(model, tokenizer.encode(corpus.validation), 2, 8)
            last = of_model["validations"][seed][-1]
            assert last["step"] == 3
            assert last["content"] == pytest.approx(again.terms["content"], rel=1e-6)
            samples = of_model["texts"][seed]["samples"]
            assert all(sample["prompt"] in corpus.validation for sample in samples)
            judge, length = Judge(corpus.train), sum(len(sample["text"]) for sample in samples)
            nats = sum(
                judge.nats_per_character(sample["text"], sample["prompt"]) * len(sample["text"])
                for sample in samples
            )
            assert of_model["texts"][seed]["judge"] == pytest.approx(nats / length)
        assert list(of_model["decoding"]) == ["5", "40"]
    assert all(
        sample["prompt"] + sample["text"] in corpus.validation
        for sample in results["validation_text"]["samples"]
    )

    report = Path("whole/report.md").read_text(encoding="utf-8")
    row = re.search(r"^\| toy_filler \|.*masked tokens only.*$", report, re.M)[0]
    assert " – " in row  # no bits per character
    mean = (
        sum(validations[-1]["content"] for validations in results["models"]["toy_bigram"]["validations"]) / 2
    )
    assert f"| {mean:.4f} ± " in re.search(r"^\| toy_bigram \|.*$", report, re.M)[0]
    assert report.count("| toy_recurrent | `") == 8
    for picture, size in (("validation", (1080, 504)), ("decoding", (1200, 504))):
        header = Path(f"whole/{picture}.png").read_bytes()[:24]
        assert struct.unpack(">II", header[16:]) == size
        assert picture in report


def test_an_interrupted_comparison_goes_on_where_it_stopped(whole, call, monkeypatch):
    fetch = RandomWindows.batch

    def interrupting(self, index):
        if self.seed == 1 and index == 1:
            monkeypatch.setattr(RandomWindows, "batch", fetch)
            os.kill(os.getpid(), signal.SIGINT)
        return fetch(self, index)

    monkeypatch.setattr(RandomWindows, "batch", interrupting)
    code, output, _ = call(f"{COMPARE} --save-dir parts")
    assert code == 130
    assert "interrupted; phasefield compare --resume --save-dir parts goes on" in output
    done = [
        *Path("parts").rglob("*seed0/step-000003/trainer.safetensors"),
        *Path("parts").rglob("*-training.json"),
    ]
    assert len(done) == 6
    before = [path.stat().st_mtime_ns for path in done]

    code, output, _ = call("compare --resume --save-dir parts")
    assert code == 0
    assert not re.search(r"^\[\d/6\] .* seed 0$", output, re.M)
    assert before == [path.stat().st_mtime_ns for path in done]
    folders = (whole[0] / "whole", Path("parts"))
    for name in MODELS:
        files = [RunFolder(folder / "runs" / f"{name}-seed1").latest() for folder in folders]
        one, two = (load_file(file / "model.safetensors") for file in files)
        assert all(one[key].equal(two[key]) for key in one)
    one, two = map(results_in, folders)
    for name in MODELS:
        for what in ("validations", "texts", "parameters", "steps"):
            assert one["models"][name][what] == two["models"][name][what]

    code, output, _ = call("compare --resume --save-dir parts")  # all is done: nothing is made again
    assert (code, output.count("\n")) == (0, 1)


def test_an_interrupted_measurement_is_made_again_and_the_others_are_kept(call, monkeypatch):
    from phasefield import compare

    def interrupted(*_):
        raise KeyboardInterrupt

    one = f"{COMPARE.replace('--seeds 2', '--seeds 1').replace('toy_filler', '')} --save-dir parts"
    decoding_speed = compare.decoding_speed
    monkeypatch.setattr(compare, "decoding_speed", interrupted)
    code, output, _ = call(one)
    assert code == 130
    assert output.endswith("interrupted; phasefield compare --resume --save-dir parts goes on\n")
    assert not Path("parts/report.md").exists()
    monkeypatch.setattr(compare, "decoding_speed", decoding_speed)
    code, output, _ = call("compare --resume --save-dir parts")
    assert code == 0
    assert "reading what is written" not in output
    assert Path("parts/report.md").exists()


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        # 0.05 minutes at a second a step.
        ("--minutes 0.05", {"toy_recurrent": 3, "toy_bigram": 3}),
        # 16 tokens a step; the bigram model says 1000 a token of its sequences of 8.
        ("--flops 640000", {"toy_recurrent": None, "toy_bigram": 5}),
    ],
)
def test_the_budget_says_how_many_steps_each_trains(budget, steps, call, monkeypatch):
    monkeypatch.setattr(
        "phasefield.compare.training_speed",
        lambda *_: {"tokens_per_second": 16.0, "seconds_per_step": 1.0, "peak_bytes": 1},
    )
    line = COMPARE.replace("--steps 3 --seeds 2", f"{budget} --seeds 1").replace("toy_filler", "")
    assert call(f"{line} --save-dir new")[0] == 0
    for name, of_model in results_in("new")["models"].items():
        expected = steps[name] or max(1, round(640_000 / (6 * of_model["parameters"] * 16)))
        assert of_model["steps"] == of_model["validations"][0][-1]["step"] == expected


@pytest.fixture
def planned(call, monkeypatch):
    """A comparison in ``new`` that was stopped before anything was measured."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("phasefield.compare.training_speed", interrupted)
        assert call(f"{COMPARE} --save-dir new")[0] == 130
    return call


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--save-dir new", 1, "--save-dir new already holds a comparison; go on with it by --resume"),
        ("--save-dir new --resume --seeds 3", 2, "--seeds is 3, but the comparison in new was begun with 2"),
        (
            "--save-dir new --resume --models toy_bigram",
            2,
            "was begun with toy_recurrent toy_bigram toy_filler",
        ),
        ("--save-dir new --resume --data-path other.txt", 2, "--data-path is other.txt, but"),
    ],
)
def test_a_comparison_is_not_continued_as_another_one(flags, code, message, planned):
    found, output, error = planned(f"compare {flags}")
    assert (found, output) == (code, "")
    assert error.startswith("error: ")
    assert message in error


def test_a_folder_that_cannot_be_made_is_named(call):
    code, output, error = call(f"{COMPARE} --save-dir text.txt")
    assert (code, output) == (1, "")
    assert error.startswith("error: --save-dir: text.txt cannot be written: ")


def test_another_text_in_the_same_file_is_refused(planned):
    Path("text.txt").write_text(Path("text.txt").read_text().replace("wall", "Wall"))
    code, _, error = planned("compare --save-dir new --resume")
    assert code == 2
    assert "the text is not the one that the comparison in new was begun on" in error


@pytest.mark.parametrize("content", ["{", "[]", '{"flags": {"models": ["all"], "sedes": 3}}'])
def test_a_damaged_plan_is_named(content, planned):
    Path("new/plan.json").write_text(content)
    code, _, error = planned("compare --save-dir new --resume")
    assert code == 1
    assert "plan.json" in error


def test_a_damaged_measurement_is_named(planned):
    Path("new/measurements").mkdir()
    Path("new/measurements/toy_bigram-training.json").write_text("{")
    code, _, error = planned("compare --save-dir new --resume")
    assert code == 1
    assert "toy_bigram-training.json is damaged" in error
    assert "delete it to have it made again" in error
