"""Every command of the README's table of the origins runs, on a small text with small models."""

import io
import re
import shlex
from pathlib import Path

import pytest

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.data import Corpus
from phasefield.data.corpora import DATASETS
from phasefield.models import MODELS
from phasefield.training import TrainConfig

README = Path(__file__).parent.parent / "README.md"
# Every letter, as the table's prompts need them.
TEXT = "To be, or not to be: the quick brown fox jumps over a lazy dog. The field! Hello world\n" * 30
TINY = {
    "landauer": {},
    "field": {"contexts": "0 1 2 w", "sites": 1024, "horizon": 8},
    "mamba": {"dim": 8, "num_layers": 1, "d_state": 2},
    "phase_field": {"dim": 8, "num_layers": 1},
    "nanogpt": {"hidden_dim": 8, "num_layers": 1, "num_heads": 2},
    "iterative_thinking": {"hidden_dim": 8, "num_layers": 1, "num_heads": 2},
    "iterative_thinking_masked": {"hidden_dim": 8, "num_layers": 2, "num_heads": 2},
    "diffusion_lm": {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "diffusion_steps": 12},
}
SHORT = "--steps 2 --batch-size 2 --seq-len 16 --device cpu"
SMALLER = {
    "train": f"{SHORT} --save-every 1 --eval-every 1 --log-with none",
    "generate": "--max-new-tokens 4",
    "compare": f"{SHORT} --seeds 1 --parameters 3000 --prompt-lengths 4",
    "ablate": f"{SHORT} --seeds 1",
    "profile": "--batch-sizes 1 --seq-lengths 4 --repeats 1 --device cpu",
    "doctor": "--device cpu",
    "analyze": "",
    "chat": "--max-new-tokens 3",
}


def commands():
    table = next(block for block in README.read_text("utf-8").split("\n\n") if block.startswith("| origin |"))
    rows = table.splitlines()[2:]
    found = [re.fullmatch(r"\|.*\| `phasefield (.*)` \|", row) for row in rows]
    assert all(found), "every row ends with a command of ours"
    return [match[1] for match in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("origins")


@pytest.fixture(autouse=True)
def _small(place, monkeypatch):
    monkeypatch.chdir(place)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    for name in DATASETS:
        monkeypatch.setitem(DATASETS, name, lambda name: Corpus(name, TEXT, TEXT[:200]))
    for name, tiny in TINY.items():
        for size in MODELS[name].sizes:
            monkeypatch.setitem(MODELS[name].sizes, size, tiny)
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def run(arguments):
    return command_line.run(dispatch, arguments)


@pytest.mark.parametrize("line", commands())
def test_each_command_of_the_table_runs(line, place, monkeypatch, capsys):
    if line.startswith("profile"):  # whose training steps have the model's own batches
        monkeypatch.setitem(DATASETS, TrainConfig.dataset, lambda name: Corpus(name, TEXT * 4, TEXT[:200]))
    name, *rest = shlex.split(line)
    folder = place / f"run-{commands().index(line)}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    needs = {"generate": "landauer", "chat": "nanogpt"}
    if "--resume" in rest:
        assert run(["train", rest[0], *SMALLER["train"].split()]) == 0
    elif name in needs and ("--checkpoint" in rest or "--num-samples" in rest):
        model = "field" if "--num-samples" in rest else needs[name]
        assert run(["train", model, *SMALLER["train"].split()]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("To be\n/quit\n"))
    capsys.readouterr()
    # What a resumed run leaves out is the saved run's.
    assert run([name, *rest, *("" if "--resume" in rest else SMALLER[name]).split()]) == 0
    output, error = capsys.readouterr()
    assert output
    if line.startswith(('generate "The quantum', "analyze")):
        assert "has learnt nothing" in error
