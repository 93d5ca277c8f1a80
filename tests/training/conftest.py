import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from phasefield.training import RunFlags, TrainConfig, train

TEXT = "".join(f"{number} bottles stood on the wall, {number % 7} fell.\n" for number in range(120))


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    # accelerate keeps device and precision for the life of a process.
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def flags(tmp_path, text_file):
    """Make flags of a run that takes a moment: ``flags(steps=3)``; the model's as ``flags(model={…})``."""

    def make(model=None, **changes):
        config = TrainConfig(
            data_path=str(text_file),
            save_dir=str(tmp_path / "run"),
            batch_size=3,
            seq_len=8,
            steps=20,
            save_every=100,
            eval_every=0,
            device="cpu",
            log_with="none",
        )
        return RunFlags(
            "landauer",
            replace(config, **changes),
            {"embed_dim": 4, "hidden_dim": 6, "num_layers": 2, **(model or {})},
        )

    return make


@pytest.fixture
def quietly():
    """Train without printing; what would have been printed is in ``quietly.text()``."""
    output = io.StringIO()

    def run(flags):
        torch.manual_seed(12345)  # a run must not depend on what was drawn before it
        return train(flags, Console(file=output, width=200))

    run.text = output.getvalue
    return run
