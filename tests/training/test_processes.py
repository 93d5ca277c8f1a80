import json
import multiprocessing
import os
import socket
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from safetensors.torch import load_file

from phasefield.data import load_corpus
from phasefield.errors import UsageError
from phasefield.training import evaluate, load_model, train
from phasefield.training.evaluation import validation_ids
from phasefield.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs gloo and a fork server")


def one_of_two(flags, rank, port):
    """What a launcher starts for each process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open(os.devnull, "w") as nowhere:
        train(flags, Console(file=nowhere))


@pytest.fixture
def in_two_processes():
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["phasefield.training", "torch._dynamo"])

    def run(flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = [processes.Process(target=one_of_two, args=(flags, rank, port)) for rank in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        codes = [process.exitcode for process in both]
        for process in both:
            process.kill()  # one that hangs would keep pytest from ending
        assert codes == [0, 0]

    return run


def test_two_processes_train_together_and_resume_bit_for_bit(flags, in_two_processes, quietly, tmp_path):
    options = {"stateful": True, "gradient_accumulation": 2, "steps": 14, "eval_every": 7}
    whole = flags(save_dir=str(tmp_path / "whole"), **options)
    parts = flags(save_dir=str(tmp_path / "parts"), **options | {"steps": 7})
    in_two_processes(whole)
    in_two_processes(parts)
    in_two_processes(replace(parts, run=replace(parts.run, steps=14, resume=True)))

    ends = [RunFolder(tmp_path / name).latest() for name in ("whole", "parts")]
    weights, weights_again = (load_file(end / "model.safetensors") for end in ends)
    assert all(weights[name].equal(weights_again[name]) for name in weights)
    trainer, trainer_again = (load_file(end / "trainer.safetensors") for end in ends)
    rows = [name for name in trainer if name.startswith(("random.", "carried."))]
    assert all(trainer[name].equal(trainer_again[name]) for name in rows)
    assert not trainer["carried.state"][0].equal(trainer["carried.state"][1])  # each reads streams of its own

    with pytest.raises(UsageError, match="has 2 processes, now there are 1"):
        quietly(replace(whole, run=replace(whole.run, steps=20, resume=True)))


def test_two_processes_share_the_validation_split(flags, in_two_processes):
    in_two_processes(flags(steps=5, eval_every=5))
    checkpoint = RunFolder(flags().run.save_dir).latest()
    shared = json.loads((checkpoint / "trainer.json").read_text())["validations"][-1]
    model, tokenizer = load_model(checkpoint)
    alone = evaluate(model, validation_ids(load_corpus(data_path=flags().run.data_path), tokenizer), 3, 8)
    assert shared["total"] == pytest.approx(alone.total, rel=1e-6)
