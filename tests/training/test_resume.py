import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from phasefield.data import ContiguousStreams, RandomWindows
from phasefield.errors import UsageError, UserError
from phasefield.train import parse
from phasefield.training import RunFlags
from phasefield.training.run_folder import RunFolder

VARIANTS = {
    "random windows": {},
    "contiguous streams": {"stateful": True},
    "accumulation, warm-up, cosine": {"gradient_accumulation": 2, "warmup_steps": 5, "cosine": True},
    "streams of the lru cell": {"stateful": True, "model": {"cell": "lru"}},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture
def interrupted_in_step(monkeypatch):
    """Let a signal arrive while the given step (counted from 1) fetches its first batch."""

    def arrange(step, accumulation=1, number=signal.SIGINT):
        for kind in (RandomWindows, ContiguousStreams):
            fetch = kind.batch

            def batch(self, index, fetch=fetch):
                if index == (step - 1) * accumulation:
                    monkeypatch.undo()
                    os.kill(os.getpid(), number)
                return fetch(self, index)

            monkeypatch.setattr(kind, "batch", batch)

    return arrange


def contents(save_dir):
    """What a run's last checkpoint holds: tensors, progress, and which step is the best."""
    latest, best = RunFolder(save_dir).latest(), RunFolder(save_dir).best()
    progress = json.loads((latest / "trainer.json").read_text())
    return (
        load_file(latest / "model.safetensors"),
        load_file(latest / "trainer.safetensors"),
        {key: progress[key] for key in ("step", "best_step", "best_total", "validations")},
        best.name,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    variant, flags, quietly, tmp_path, interrupted_in_step
):
    options = {"steps": 34, "eval_every": 9, "save_every": 8, **VARIANTS[variant]}
    quietly(flags(save_dir=str(tmp_path / "whole"), **options))

    # 13 is no multiple of the report's, validation's or checkpoint's steps.
    interrupted_in_step(13, options.get("gradient_accumulation", 1))
    outcome = quietly(flags(save_dir=str(tmp_path / "parts"), **options))
    assert (outcome.step, outcome.signal) == (13, signal.SIGINT)
    quietly(flags(save_dir=str(tmp_path / "parts"), resume=True, **options))

    weights, trainer, progress, best = contents(tmp_path / "whole")
    weights_again, trainer_again, progress_again, best_again = contents(tmp_path / "parts")
    assert progress == progress_again
    assert best == best_again
    assert weights.keys() == weights_again.keys()
    assert all(weights[name].equal(weights_again[name]) for name in weights)
    assert trainer.keys() == trainer_again.keys()
    assert all(trainer[name].equal(trainer_again[name]) for name in trainer)
    assert len(trainer["losses"]) == 4  # steps 10, 20, 30 and the last


def test_more_steps_go_on_where_the_run_ended(flags, quietly):
    quietly(flags(steps=10))
    outcome = quietly(flags(steps=15, resume=True))
    assert outcome.step == 15


def test_a_finished_run_is_left_as_it_is(flags, quietly):
    quietly(flags(steps=10))
    before = RunFolder(flags().run.save_dir).latest().stat().st_mtime_ns
    assert quietly(flags(steps=10, resume=True)).step == 10
    assert RunFolder(flags().run.save_dir).latest().stat().st_mtime_ns == before
    assert "has done its 10 steps" in quietly.text()


def test_flags_left_out_keep_the_values_of_the_run(flags, quietly):
    started = flags(steps=10, seed=7, model={"hidden_dim": 5, "cell": "lru"})
    quietly(started)
    resumed = parse(["--resume", f"--save_dir={started.run.save_dir}", "--steps", "12"])
    assert resumed.run == flags(steps=12, seed=7, resume=True).run
    assert resumed.model_flags.items() >= started.model_flags.items()


def test_the_command_of_a_run_may_be_repeated_with_resume(flags, quietly):
    command = ["--stateful", "--save-dir", flags().run.save_dir, "--data-path", flags().run.data_path]
    command += [
        "--steps",
        "10",
        "--hidden-dim",
        "6",
        "--bound-scale",
        "--log-with",
        "none",
        "--device",
        "cpu",
    ]
    quietly(parse(command))
    assert quietly(parse([*command, "--resume"])).step == 10


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 4},
        {"seq_len": 9},
        {"lr": 1e-3},
        {"grad_clip": 0.5},
        {"precision": "bf16"},
        {"stateful": True},
        {"gradient_accumulation": 2},
        {"model": {"hidden_dim": 7}},
        {"model": {"cell": "lru"}},
    ],
    ids=str,
)
def test_a_flag_that_would_make_another_run_is_named(change, flags, quietly):
    quietly(flags(steps=10))
    name = next(iter(change.get("model", change))).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{name} is .* was started with"):
        quietly(flags(steps=20, resume=True, **change))


def test_a_cosine_run_cannot_change_its_last_step(flags, quietly):
    quietly(flags(steps=10, cosine=True))
    with pytest.raises(UsageError, match="--steps is 20"):
        quietly(flags(steps=20, cosine=True, resume=True))


def test_another_text_is_refused(flags, quietly, text_file):
    quietly(flags(steps=10))
    text_file.write_text(text_file.read_text().replace("wall", "Wall"))
    with pytest.raises(UsageError, match="the text is not the one"):
        quietly(flags(steps=20, resume=True))


def test_the_same_text_may_lie_elsewhere(flags, quietly, text_file):
    quietly(flags(steps=10))
    moved = text_file.rename(text_file.with_name("moved.txt"))
    assert quietly(flags(steps=11, resume=True, data_path=str(moved))).step == 11


def test_resuming_nothing_is_an_error(flags, quietly):
    with pytest.raises(UserError, match="--resume: there is no checkpoint"):
        quietly(flags(resume=True))
    assert not Path(flags().run.save_dir).exists()


def test_a_new_run_never_overwrites_another(flags, quietly):
    quietly(flags(steps=10))
    with pytest.raises(UserError, match="already holds a run, at step-000010"):
        quietly(flags())


def test_sigterm_saves_too(flags, quietly, interrupted_in_step):
    interrupted_in_step(4, number=signal.SIGTERM)
    outcome = quietly(flags())
    assert (outcome.step, outcome.signal) == (4, signal.SIGTERM)
    assert "SIGTERM: stopped after step 4" in quietly.text()
    assert RunFolder(flags().run.save_dir).latest().name == "step-000004"


EVERY_PHASE_STATE = {
    "dim": 8,
    "num_layers": 2,
    "banks": "context,language,morphology,orthography",
    "memories": {
        "slots": {"type": "slots", "slots": 9},
        "matrix": {"type": "matrix", "heads": 2},
        "episodic": {"type": "episodic", "heads": 2, "window": 5},
    },
}


def test_streams_resume_bit_for_bit_with_every_part_of_a_phase_field_that_has_a_state(
    flags, quietly, tmp_path
):
    def trained(name, *steps):
        for number, end in enumerate(steps):
            run = flags(
                steps=end, stateful=True, save_dir=str(tmp_path / name), resume=number > 0, average_decay=0.0
            ).run
            quietly(RunFlags("phase_field", run, EVERY_PHASE_STATE))
        return load_file(RunFolder(tmp_path / name).latest() / "trainer.safetensors")

    whole, resumed = trained("whole", 6), trained("pieces", 3, 6)
    carried = [name for name in whole if name.startswith("carried.")]
    # A window's keys and values, two blocks' convolutions and recurrences, matrices and a last key, banks.
    assert len(carried) == 2 + 2 * 2 + 2 + 4
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole if name != "losses")
