"""Training runs of whole models beside the figures that were published for them."""

import json
import math
from pathlib import Path

from .tables import table


def runs(data: Path) -> str:
    """The runs of training.json by what they reproduce."""
    parts = ["## Training"]
    path = data / "training.json"
    if not path.exists():
        return parts[0] + '\n\n*No training.json: see "How to add rows".*'
    for group in json.loads(path.read_text(encoding="utf-8")):
        rows = []
        for run in group["runs"]:
            bits = run["loss"] / math.log(2)
            step = "" if run.get("ms_per_step") is None else run["ms_per_step"]
            rows.append(
                (run["what"], run.get("seed", ""), f"{run['loss']:.4f}", f"{bits:.3f}", step, run["measure"])
            )
        parts += [
            f"### {group['title']}",
            group["text"],
            table(("run", "seed", "loss, nats", "bits a character", "ms a step", "measured on"), rows),
            "```bash\n" + "\n".join(group["commands"]) + "\n```",
        ]
    return "\n\n".join(parts)
