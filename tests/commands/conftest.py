import io
import shutil

import pytest
from rich.console import Console

from phasefield.training import RunFlags, TrainConfig, train
from phasefield.training.hebbian import train_hebbian

TEXT = "".join(f"{number} bottles stood on the wall, {number % 7} fell.\n" for number in range(120))


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    # accelerate keeps device and precision for the life of a process.
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run's folder with checkpoints ``step-000100`` and ``step-000200``, and beside it its text."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    config = TrainConfig(
        data_path=str(folder / "text.txt"),
        save_dir=str(folder / "run"),
        batch_size=16,
        seq_len=16,
        lr=1e-2,
        steps=200,
        save_every=200,
        eval_every=100,
        device="cpu",
        log_with="none",
    )
    train(RunFlags("landauer", config, {"hidden_dim": 32}), Console(file=io.StringIO()))
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """The current folder: ``text.txt`` and a copy of the trained run in ``run``."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "workplace"))
    return tmp_path / "workplace"


@pytest.fixture(scope="session")
def trained_field(tmp_path_factory):
    """A folder with the run of a small field model in ``field``, and its text."""
    folder = tmp_path_factory.mktemp("trained-field")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    config = TrainConfig(
        data_path=str(folder / "text.txt"),
        save_dir=str(folder / "field"),
        batch_size=4,
        seq_len=32,
        lr=0.05,
        steps=20,
        eval_every=0,
        device="cpu",
    )
    small = {"contexts": "0 1 2 3 w w1", "sites": 8192, "horizon": 16}
    train_hebbian(RunFlags("field", config, small), Console(file=io.StringIO()))
    return folder


@pytest.fixture
def field_workplace(trained_field, tmp_path, monkeypatch):
    """The current folder: ``text.txt`` and a copy of the trained field in ``field``."""
    monkeypatch.chdir(shutil.copytree(trained_field, tmp_path / "field-workplace"))
    return tmp_path / "field-workplace"
