import multiprocessing
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from phasefield.training import load_model, train
from phasefield.training.run_folder import RunFolder

KILLS = 10


def run_to_the_end(flags):
    """What the killed process does: start or resume the run, like the command with and without --resume."""
    resume = RunFolder(flags.run.save_dir).latest() is not None
    with open(os.devnull, "w") as nowhere:
        train(replace(flags, run=replace(flags.run, resume=resume)), Console(file=nowhere))


def kill_while_saving(process, save_dir, moments):
    """Wait until the process has saved once more, then SIGKILL it a moment later. False if it had ended."""
    latest = Path(save_dir, "latest")
    before = latest.stat().st_mtime_ns if latest.exists() else None
    process.start()
    while process.is_alive() and (not latest.exists() or latest.stat().st_mtime_ns == before):
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.05))
    process.kill()
    process.join()
    return process.exitcode != 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server to start ten processes in no time")
def test_ten_kills_during_saving_lose_nothing(flags, quietly, tmp_path):
    # A checkpoint each step: the process spends most of its time saving.
    options = {"steps": 1500, "save_every": 1, "eval_every": 7, "model": {"hidden_dim": 64}}
    flags = flags(save_dir=str(tmp_path / "killed"), **options)
    processes = multiprocessing.get_context("forkserver")
    # Imported once, before the forks: torch loads these when it first takes a step.
    processes.set_forkserver_preload(["phasefield.training", "torch._dynamo"])
    moments = random.Random(0)
    kills, last_step = 0, 0
    while kills < KILLS:
        process = processes.Process(target=run_to_the_end, args=(flags,))
        kills += kill_while_saving(process, flags.run.save_dir, moments)
        checkpoint = RunFolder(flags.run.save_dir).latest()
        load_model(checkpoint)
        load_model(RunFolder(flags.run.save_dir).best() or checkpoint)
        step = int(checkpoint.name.removeprefix("step-"))
        assert step > last_step, "a checkpoint that had been pointed to was lost"
        last_step = step

    # What is left is the run that nobody killed, bit for bit.
    quietly(replace(flags, run=replace(flags.run, save_dir=str(tmp_path / "whole"), steps=last_step)))
    for name in ("model.safetensors", "trainer.safetensors"):
        killed, whole = (load_file(RunFolder(tmp_path / run).latest() / name) for run in ("killed", "whole"))
        for key in whole.keys() - {"losses", "running_loss"}:
            assert whole[key].equal(killed[key]), key
