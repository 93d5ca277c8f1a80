"""The notebook runs from its first cell to its last, small, and is committed with its outputs."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

from phasefield.data import Corpus
from phasefield.data.corpora import DATASETS

NOTEBOOK = Path(__file__).parent.parent / "examples" / "field_model.ipynb"
SMALL = "CHARACTERS, STEPS, NEW_TOKENS = 4_000, 4, 12"
TEXT = "".join(f"KING RICHARD:\nNow is the winter of our {number} discontents,\n" for number in range(150))
TEXT += "The duke of Perth shall wear a crown of salt.\n"


@pytest.fixture(scope="module")
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_its_first_cell_to_its_last(cells, monkeypatch, capsys):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)) or plt.close("all"))
    monkeypatch.setitem(DATASETS, "shakespeare", lambda name: Corpus(name, TEXT, TEXT[:5000]))
    sources = ["".join(cell["source"]) for cell in cells]
    parameters = re.compile(r"^CHARACTERS, STEPS, NEW_TOKENS = .*$", re.M)
    assert parameters.search(sources[0])
    namespace = {}
    with matplotlib.rc_context():
        for number, source in enumerate(sources):
            code = compile(parameters.sub(SMALL, source), f"cell {number}", "exec")
            exec(code, namespace)
    assert len(shown) == 5
    output = capsys.readouterr().out
    assert "parameters with a gradient: 0" in output
    before, after = map(float, re.search(r"costs ([\d.]+) nats .* told, ([\d.]+) after", output).groups())
    assert after < before
    first, *_, last = namespace["history"]
    assert last[1] < first[1]


def test_every_cell_was_run_in_order_and_none_failed(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
