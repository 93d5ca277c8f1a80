"""`ablate`: its grid, its scores, and going on after an interruption."""

import json
import signal
from pathlib import Path

import pytest

from phasefield import command_line
from phasefield.ablation.plan import AblateFlags
from phasefield.cli import dispatch
from phasefield.comparison.store import save_plan
from phasefield.models import Field
from phasefield.training.hebbian import train_hebbian
from tests.commands.conftest import TEXT

GRID = ["--embeddings", "cone", "--rules", "none", "delta", "--seeds", "2"]
GRID += ["--datasets", "text.txt", "other.txt"]
SMALL = ["--steps", "2", "--batch-size", "2", "--seq-len", "24", "--size", "small", "--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("other.txt").write_text(TEXT[::-1], encoding="utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    from phasefield.models import MODELS

    monkeypatch.setitem(MODELS["field"].sizes, "small", {"contexts": "0 1 2 w", "sites": 1024, "horizon": 8})


def ablate(*arguments):
    return command_line.run(dispatch, ["ablate", *arguments])


def test_a_grid_is_trained_scored_and_reported(place, capsys):
    assert ablate("parts", *GRID, *SMALL) == 0
    folder = Path("ablations/parts")
    results = json.loads((folder / "results.json").read_text())
    cells = [(cell["dataset"], cell["embedding"], cell["rule"]) for cell in results["cells"]]
    assert cells == [
        (dataset, "cone", rule) for dataset in ("text.txt", "other.txt") for rule in ("none", "delta")
    ]
    # Each score is that of training alone with the same choices.
    flags = AblateFlags("again", datasets=("text.txt",), size="small", steps=2, batch_size=2, seq_len=24)
    alone = flags.run_flags(
        {
            "dataset": "text.txt",
            "embedding": "cone",
            "perturbation": "none",
            "rule": "delta",
            "matrix": "none",
            "without": "nothing",
        },
        1,
    )
    assert train_hebbian(alone).validation["content"] == results["cells"][1]["content"][1]
    assert len({tuple(cell["content"]) for cell in results["cells"]}) == 4

    report = (folder / "report.md").read_text()
    first, second = results["cells"][2:4]
    apart = sum(b - a for a, b in zip(first["content"], second["content"], strict=True)) / 2
    row = next(line for line in report.splitlines() if line.startswith("| other.txt | delta |"))
    assert f"| {apart:+.4f} ±" in row
    assert report.count("| – |") == 2  # the first of each dataset
    assert "Everywhere: embedding cone, perturbation none, matrix none, without nothing." in report
    for picture in ("scores.png", "training.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"
    assert not list((folder / "runs").iterdir())
    assert "| text.txt | none |" in capsys.readouterr().out


def test_an_interrupted_ablation_goes_on_where_it_stopped(place, monkeypatch, capsys):
    grid = ["--perturbations", "none", "beta", "--datasets", "text.txt", "--seeds", "1"]
    assert ablate("whole", *grid, *SMALL) == 0
    calls, learn = [], Field.learn_

    def interrupting(self, *arguments, **options):
        calls.append(options["perturbation"])
        if len(calls) == 3:  # the first step of the second training
            signal.raise_signal(signal.SIGTERM)
        return learn(self, *arguments, **options)

    monkeypatch.setattr(Field, "learn_", interrupting)
    assert ablate("parts", *grid, *SMALL) == 128 + signal.SIGTERM
    assert "with --resume goes on" in capsys.readouterr().out
    assert ablate("parts", *grid, *SMALL, "--resume") == 0
    assert calls == ["none", "none", "beta", "beta"]
    whole, parts = (
        json.loads(Path(f"ablations/{name}/results.json").read_text())["cells"] for name in ("whole", "parts")
    )
    for first, second in zip(whole, parts, strict=True):
        assert first["content"] == second["content"]
        assert first["losses"] == second["losses"]
    assert parts[1]["seconds"] == [None]


def test_each_part_can_be_left_out(place):
    parts = ["nothing", "crystal", "words", "gravity", "masses", "coherence", "mixture"]
    grid = ["--without", *parts, "--datasets", "text.txt", "--seeds", "1"]
    assert ablate("parts", *grid, *SMALL) == 0
    cells = json.loads(Path("ablations/parts/results.json").read_text())["cells"]
    assert [cell["without"] for cell in cells] == parts
    # Two batches of this text are too few for coherence and masses to decide between predictors.
    assert len({cell["content"][0] for cell in cells}) >= len(parts) - 2


def test_with_minutes_all_learn_for_the_same_time_and_interrupted_ones_begin_anew(place, monkeypatch):
    now = [0.0]

    def ticking():
        now[0] += 0.25  # each step learns for one tick, so for a quarter of a second
        return now[0]

    monkeypatch.setattr("phasefield.training.hebbian.time.process_time", ticking)
    calls, learn = [], Field.learn_

    def watching(self, *arguments, **options):
        calls.append(options["rate"])
        if len(calls) == 6:  # in the second training
            signal.raise_signal(signal.SIGTERM)
        return learn(self, *arguments, **options)

    monkeypatch.setattr(Field, "learn_", watching)
    budget = ["--minutes", str(1 / 60), *SMALL[2:]]
    grid = ["--without", "nothing", "gravity", "--datasets", "text.txt", "--seeds", "1"]
    assert ablate("timed", *grid, *budget) == 128 + signal.SIGTERM
    assert ablate("timed", *grid, *budget, "--resume") == 0
    assert len(calls) == 4 + 2 + 4
    rates = [0.1 * (0.02 + 0.98 * (1 - done)) for done in (0, 0.25, 0.5, 0.75)]
    assert calls[:4] == calls[6:] == pytest.approx(rates)
    report = Path("ablations/timed/report.md").read_text()
    assert "1 seconds of learning in steps of 2 × 24 tokens" in report
    assert [
        len(cell["losses"][0])
        for cell in json.loads(Path("ablations/timed/results.json").read_text())["cells"]
    ] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        ([], 2, "NAME is ''; it must be the name of one folder"),
        (["a/b"], 2, "NAME is 'a/b'; it must be the name of one folder"),
        (["a", "--embeddings", "silver"], 2, "'silver'"),
        (["a", "--seeds", "0"], 2, "--seeds is 0; it must be at least 1"),
        (["a", "--rules", "hebb", "hebb"], 2, "--rules is hebb hebb; give at least one, each once"),
        (["a", "--datasets", "shakspere"], 2, "--datasets names 'shakspere', which is no file; known are"),
        (["a", "--datasets", "text.txt", "sub/text.txt"], 2, "the files must differ in their names"),
        (["a", "--size", "huge"], 2, "--size is 'huge', which field does not have"),
        (["a", "--minutes", "0"], 2, "--minutes is 0.0; it must be above 0 and finite"),
        (["a", "--minutes", "1", "--steps", "2"], 2, "--minutes and --steps are both given"),
        (["a", "--without", "glue"], 2, "'glue'"),
        (["a", "--resume"], 1, "--resume: there is no ablation in"),
        (["done"], 1, "already holds an ablation; go on with it by --resume"),
        (["done", "--resume", "--seeds", "5"], 2, "--seeds is 5, but the ablation in"),
        (["a", "--save-dir", "text.txt"], 1, "text.txt/a cannot be written: "),
        (["a", "--device", "gpu"], 2, "--device is 'gpu'"),
    ],
)
def test_a_bad_call_is_one_paragraph_that_names_the_cause(arguments, code, cause, place, capsys):
    Path("sub").mkdir()
    Path("sub/text.txt").write_text(TEXT, encoding="utf-8")
    save_plan(Path("ablations/done"), AblateFlags("done"))
    before = sorted(place.rglob("*"))
    assert ablate(*arguments) == code
    output, error = capsys.readouterr()
    assert error.startswith("error: ")
    assert cause in error
    assert error.count("\n") == 1
    assert output == ""
    assert sorted(place.rglob("*")) == before
