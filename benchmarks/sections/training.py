"""Training runs of whole models beside the figures that were published for them; what a step consists of."""

import json
import math
from pathlib import Path
from typing import Any

from phasefield.profiling.steps import WARM_UPS

from ..training_step import PARTS
from .method import machine_settings
from .tables import number, table

OF_MODEL = ("forward", "backward", "learning")

COLUMNS = ("run", "seed", "total", "content, nats", "bits a character", "ms a step", "validated on")


def runs(data: Path) -> str:
    """The groups of training.json, each with its text, its runs and its commands."""
    path = data / "training.json"
    if not path.exists():
        return "## Training\n\n*Left out: no `benchmarks/data/training.json`; it is written by hand.*"
    parts = ["## Training"]
    for group in json.loads(path.read_text(encoding="utf-8")):
        parts += [
            f"### {group['title']}",
            group["text"],
            table(COLUMNS, map(_cells, group["runs"])),
            "```bash\n" + "\n".join(group["commands"]) + "\n```",
        ]
    return "\n\n".join(parts)


def _cells(run: dict[str, Any]) -> list[object]:
    # A published run has a total alone.
    total, content = run.get("total"), run.get("content")
    # Masked characters alone say nothing of the text as a whole.
    whole = content is not None and "masked" not in run["measure"]
    return [
        run["what"],
        run.get("seed"),
        None if total is None else f"{total:.4f}",
        None if content is None else f"{content:.4f}",
        f"{content / math.log(2):.3f}" if whole else None,
        run.get("ms_per_step"),
        run["measure"],
    ]


def step_shares(data: Path) -> str:
    """The shares of training_step.json, a model a row."""
    parts = ["## Where a training step goes"]
    path = data / "training_step.json"
    command = "python -m benchmarks.training_step --store benchmarks/data/training_step.json"
    if not path.exists():
        return "\n\n".join(
            [*parts, f"*Left out: no `benchmarks/data/training_step.json`; `{command}` makes it.*"]
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    run, rows = stored["settings"], stored["rows"].values()
    used = [part for part in PARTS if any(part in row["parts"] for row in rows)]
    parts += [
        "Of each model's smallest size, `phasefield train` at a terminal with its own flags: processor time "
        f"a step, the mean of {stored['steps']} after {WARM_UPS} to warm up, none validated or saved, and "
        "its shares. What is not the model's arithmetic is *around it*: data, clipping, optimizer, the "
        "average of the weights, reports (loss, log, progress bar), the rest of the loop. *Learning* is that "
        "of a model without gradients. *Looks* are values that Python reads from tensors, and how many a "
        "step: each waits for the GPU where the tensor lies there. Values that ops check on a CPU alone "
        "count among them.",
        table(
            ("run", "batch", "ms", *(f"{part}, %" for part in used), "around it, %", "looks"),
            (_step_cells(row, used) for row in rows),
        ),
        f"{run['device']}, {'; '.join(machine_settings(run))}; `{run['commit']}`, {run['date']}. To measure: "
        f"`{command}`.",
    ]
    return "\n\n".join(parts)


def _step_cells(row: dict[str, Any], used: list[str]) -> list[object]:
    shares = {part: 100 * row["parts"].get(part, 0.0) / row["seconds"] for part in used}
    around = sum(share for part, share in shares.items() if part not in OF_MODEL)
    return [
        f"`{row['arguments']}`",
        f"{row['batch_size']} × {row['seq_len']}",
        number(1e3 * row["seconds"]),
        *(f"{share:.1f}" if row["parts"].get(part) else None for part, share in shares.items()),
        f"{around:.1f}",
        f"{row['looks']:.1f}",
    ]
