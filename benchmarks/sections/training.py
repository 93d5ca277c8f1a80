"""Training runs of whole models beside the figures that were published for them."""

import json
import math
from pathlib import Path
from typing import Any

from .tables import table

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
