"""``phasefield ablate NAME``: train a grid of field models and say what each choice is worth."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import command_line
from .ablation.plan import AblateFlags, run_name
from .ablation.report import as_markdown, draw_scores, draw_training
from .comparison.store import as_json, kept, read_kept, save_plan
from .errors import reported
from .training.checkpoint import read_json
from .training.device import describe_device, out_of_memory_reported, pick_backend, pick_device
from .training.durable import replace_text
from .training.hebbian import train_hebbian
from .training.run_folder import RunFolder


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Train what is not trained yet, then report; 128 plus the signal's number when one stopped it."""
    flags = command_line.parse_flags(
        AblateFlags,
        arguments,
        command="phasefield ablate",
        description="Train field models with every combination of the choices given, from several seeds: "
        "phasefield ablate NAME [FLAGS].",
    )
    device = pick_device(flags.device)
    pick_backend(device)
    flags.check_start()
    save_plan(flags.folder, flags)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    runs = list(flags.runs())
    for number, (cell, seed) in enumerate(runs, 1):
        scores = flags.folder / "scores" / f"{run_name(cell, seed)}.json"
        if scores.is_file():
            continue
        console.print(f"\n[{number}/{len(runs)}] {run_name(cell, seed)}")
        result, stopped_by = _train(flags, cell, seed, console)
        if stopped_by is not None:
            console.print(f"interrupted; the same command with --resume goes on in {flags.folder}")
            return 128 + stopped_by
        kept(scores, lambda result=result: result)
        console.print(f"{result['content']:.4f} nats a token after {len(result['losses']):,} steps")
        # The scores are what counts; a grid's checkpoints would fill a disk.
        shutil.rmtree(flags.folder / "runs" / run_name(cell, seed))
    _report(flags, describe_device(device), console)
    return 0


def _train(
    flags: AblateFlags, cell: dict[str, str], seed: int, console: Console
) -> tuple[dict[str, Any], int | None]:
    run_flags = flags.run_flags(cell, seed)
    budget = None if flags.minutes is None else 60 * flags.minutes
    if budget is not None and RunFolder(run_flags.run.save_dir).latest() is not None:
        shutil.rmtree(run_flags.run.save_dir)  # a training by time begins anew
    begin = time.process_time()
    outcome = train_hebbian(run_flags, console, seconds=budget)
    seconds = time.process_time() - begin
    checkpoint = RunFolder(run_flags.run.save_dir).latest()
    trained = read_json(checkpoint / "trainer.json") if checkpoint else {}
    result = {
        "content": trained["validations"][-1]["content"] if trained.get("validations") else None,
        "seconds": None if run_flags.run.resume else seconds,
        "losses": trained.get("losses", []),
    }
    return result, outcome.signal


def _report(flags: AblateFlags, device: str, console: Console) -> None:
    cells = []
    for cell in flags.cells:
        scores = [
            read_kept(flags.folder / "scores" / f"{run_name(cell, seed)}.json") for seed in range(flags.seeds)
        ]
        cells.append({**cell, **{name: [score[name] for score in scores] for name in scores[0]}})
    run = flags.run_flags(flags.cells[0], 0).run
    results = {
        "name": flags.name,
        "size": flags.size,
        "steps": None if flags.minutes else run.steps,
        "minutes": flags.minutes,
        "batch_size": run.batch_size,
        "seq_len": run.seq_len,
        "seeds": flags.seeds,
        "device": device,
        "torch_version": torch.__version__,
        "cells": cells,
    }
    report, folder = as_markdown(results), Path(flags.folder)
    with reported(OSError):
        replace_text(folder / "results.json", as_json(results))
        replace_text(folder / "report.md", report)
        draw_scores(folder / "scores.png", results)
        draw_training(folder / "training.png", results)
    console.print(f"\n{next(part for part in report.split(chr(10) * 2) if part.startswith('|'))}")
    console.print(f"\nwrote report.md, results.json and the pictures beside it in {folder}")


if __name__ == "__main__":
    sys.exit(command_line.run(run))
