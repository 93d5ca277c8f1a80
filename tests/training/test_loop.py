import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phasefield.data import RandomWindows
from phasefield.errors import UserError
from phasefield.models import Landauer
from phasefield.training import RunFlags, TrainConfig, load_model
from phasefield.training.config import learning_rate
from phasefield.training.loop import REPORT_EVERY
from phasefield.training.run_folder import RunFolder
from phasefield_kernels import aperiodic_scan, use_backend
from phasefield_kernels.aperiodic_scan.newton import certified_lanes


def weights(save_dir):
    return load_file(RunFolder(save_dir).latest() / "model.safetensors")


def test_a_run_learns_its_text(flags, quietly):
    outcome = quietly(
        flags(steps=300, batch_size=16, seq_len=16, eval_every=150, lr=1e-2, model={"hidden_dim": 32})
    )
    assert outcome.step == 300
    assert outcome.validation["content"] < 1.5  # ln 26 = 3.3 before; the text is a pattern and numbers
    assert "[val] step 300  total" in quietly.text()
    assert "full validation split" in quietly.text()


def test_newtons_iterations_solve_the_lanes_of_a_trained_model(flags, quietly):
    quietly(flags(steps=100, batch_size=16, seq_len=16, lr=1e-2, model={"hidden_dim": 32}))
    model, tokenizer = load_model(RunFolder(flags().run.save_dir).latest())
    tokens = tokenizer.encode(Path(flags().run.data_path).read_text()).unsqueeze(0)
    rnn = model.stack
    with torch.no_grad():
        h = model.embedding(tokens)
        for projection, scale, phases in zip(rnn.projections, rnn.hidden_scale, rnn.phases, strict=True):
            u = projection(h)
            assert certified_lanes(u, scale, phases).all()  # none falls back to the step-by-step scan
            h, _ = aperiodic_scan(u, scale, phases)


def test_the_same_seed_gives_the_same_run_and_another_another(flags, quietly, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        quietly(flags(save_dir=str(tmp_path / name), seed=seed))
    first, again, other = (weights(tmp_path / name) for name in "abc")
    assert all(first[key].equal(again[key]) for key in first)
    assert not any(first[key].equal(other[key]) for key in first)


def test_accumulated_batches_are_one_big_batch(flags, quietly, tmp_path, monkeypatch):
    quietly(flags(save_dir=str(tmp_path / "big"), batch_size=4, steps=3))
    big = RandomWindows.batch

    def half(self, index):
        self.batch_size = 4
        return tuple(part.chunk(2)[index % 2] for part in big(self, index // 2))

    monkeypatch.setattr(RandomWindows, "batch", half)
    quietly(flags(save_dir=str(tmp_path / "halves"), batch_size=2, gradient_accumulation=2, steps=3))
    one, two = weights(tmp_path / "big"), weights(tmp_path / "halves")
    # Adam divides by the gradient's size: rounding counts most where a gradient is nearly 0.
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_the_state_is_carried_along_streams_and_dropped_where_they_begin_again(flags, quietly, monkeypatch):
    given = []
    loss = Landauer.loss

    def spy(self, tokens, targets, state=None):
        if self.training:  # not the look at what kind of state there is
            given.append(state)
        return loss(self, tokens, targets, state)

    monkeypatch.setattr(Landauer, "loss", spy)
    quietly(flags(stateful=True, batch_size=30, seq_len=32, steps=8))
    carried = [state is not None for state in given]
    assert carried == [False, True, True, True] * 2  # four batches a pass
    assert not any(state.requires_grad for state in given if state is not None)


def test_clipping_bounds_what_the_optimizer_sees(flags, quietly, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    quietly(flags(grad_clip=0.01, steps=4))
    quietly(flags(grad_clip=0.0, steps=4, save_dir=flags().run.save_dir + "2"))
    assert max(norms[:4]) <= 0.01 * 1.001
    assert min(norms[4:]) > 0.1


@pytest.mark.parametrize("cell", ["aperiodic", "lru"])
def test_a_run_through_tritons_kernels_has_the_losses_of_the_torch_backend(cell, flags, quietly, monkeypatch):
    losses = []
    original = Landauer.loss

    def spy(self, *arguments):
        result = original(self, *arguments)
        if self.training:
            losses.append(result.total.item())
        return result

    monkeypatch.setattr(Landauer, "loss", spy)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for backend in ("triton", "torch"):
        with use_backend(backend):
            quietly(
                flags(
                    device=device,
                    steps=6,
                    stateful=True,
                    save_dir=flags().run.save_dir + backend,
                    model={"cell": cell},
                )
            )
    assert f"on {device}" in quietly.text()
    assert "triton backend" in quietly.text()
    assert len(losses) == 12
    # Six steps of Adam, which divides by the gradient's size, grow roundings of 1e-7 about a hundredfold.
    assert losses[:6] == pytest.approx(losses[6:], rel=1e-5)


def test_the_learning_rate_warms_up_and_follows_half_a_cosine():
    config = TrainConfig(lr=1.0, steps=110, warmup_steps=10, cosine=True)
    rates = [learning_rate(config, step) for step in (1, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.5, 0.0])
    constant = TrainConfig(lr=1.0, steps=110, warmup_steps=10)
    assert [learning_rate(constant, step) for step in (10, 11, 110)] == [1.0, 1.0, 1.0]


def test_the_loop_does_not_wait_for_the_device_between_reports(flags, quietly, monkeypatch):
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self, *arguments, original=original, name=name):
            reads.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def reads_of(steps):
        reads.clear()
        quietly(flags(steps=steps, save_dir=f"{flags().run.save_dir}{steps}"))
        return len(reads)

    assert reads_of(2 * REPORT_EVERY) - reads_of(REPORT_EVERY) <= 1  # the loss, once


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    flags, quietly, monkeypatch
):
    fetch = Landauer.loss
    calls = 0

    def spoiled(self, *arguments):
        nonlocal calls
        calls += 1
        result = fetch(self, *arguments)
        return type(result)(result.total * float("nan") if calls == 14 else result.total, result.terms, None)

    monkeypatch.setattr(Landauer, "loss", spoiled)
    with pytest.raises(UserError, match=r"training diverged: .* last good checkpoint is .*step-000012"):
        quietly(flags(steps=40, save_every=4))
    assert RunFolder(flags().run.save_dir).latest().name == "step-000012"
    assert all(value.isfinite().all() for value in weights(flags().run.save_dir).values())


def test_the_picture_of_the_loss_lies_beside_the_checkpoints(flags, quietly):
    quietly(flags(steps=30, eval_every=10))
    picture = os.path.join(flags().run.save_dir, "loss-curve.png")
    with open(picture, "rb") as file:
        header = file.read(24)
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == (840, 480)


def test_scalars_go_to_tensorboard(flags, quietly):
    quietly(flags(steps=20, eval_every=10, log_with="tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(os.path.join(flags().run.save_dir, "logs", "phasefield")).Reload()
    assert [event.step for event in events.Scalars("train/total")] == [10, 20]
    assert [event.step for event in events.Scalars("validation/content")] == [10, 20]


def test_a_tracker_takes_a_model_whose_flags_are_tables(flags, quietly):
    run = flags(steps=1, log_with="tensorboard").run
    small = {"dim": 4, "num_layers": 1, "memories": {"matrix": {"type": "matrix"}}}
    quietly(RunFlags("phase_field", run, small))


COMMAND = """
import sys, time
from phasefield import command_line
from phasefield.train import run
from phasefield.training.session import Session

def slow_save(self, save=Session.save):
    save(self)
    print("saved", flush=True)
    time.sleep({pause})

Session.save = slow_save
sys.exit(command_line.run(run))
"""


@pytest.fixture
def endless(flags):
    """Start an endless run in a process of its own, and wait for its first checkpoint."""
    run = flags().run
    arguments = ["--data-path", run.data_path, "--save-dir", run.save_dir, "--steps", "1000000"]
    arguments += ["--device", "cpu", "--log-with", "none", "--hidden-dim", "8", "--eval-every", "0"]

    def start(pause, save_every):
        code = [sys.executable, "-c", COMMAND.format(pause=pause)]
        flags = [*arguments, "--save-every", str(save_every)]
        process = subprocess.Popen([*code, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.stdout.readline() != "saved\n":
            assert process.poll() is None, process.stderr.read()
        return process

    return start


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
def test_ctrl_c_saves_says_so_and_exits_with_130(endless, flags):
    process = endless(pause=0, save_every=5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    latest = RunFolder(flags().run.save_dir).latest()
    assert process.returncode == 130
    assert f"saved {latest}" in output
    assert "SIGINT: stopped after step" in output
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send SIGINT to one process")
def test_a_second_ctrl_c_ends_the_process_at_once(endless):
    process = endless(pause=3600, save_every=1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # the process is in its pause, and takes note there
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
