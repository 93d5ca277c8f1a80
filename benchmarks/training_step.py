"""Where a step of ``phasefield train`` goes, model by model: data, forward, backward, optimizer and the rest.

``python -m benchmarks.training_step`` begins a run of every model of the package, of its smallest size and
with its own training flags, and prints how the processor's time of its steps is shared out. Names of models
measure only these; ``--store FILE`` keeps the rows as JSON.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phasefield.models import MODELS
from phasefield.profiling.steps import STEPS, step_parts
from phasefield.train import parse

from .machine import settings, this_device

PARTS = (
    "forward",
    "backward",
    "learning",
    "data",
    "clipping",
    "optimizer",
    "averaging",
    "reports",
    "looks",
    "rest",
)


def runs() -> dict[str, list[str]]:
    """The arguments of ``phasefield train``, by what they train: the smallest size of each model."""
    found = {}
    for name, entry in MODELS.items():
        smallest = ["--size", next(iter(entry.sizes))] if entry.sizes else []
        found[name] = [name, *smallest]
        for flag, values in entry.choices.items():
            found |= {f"{name}-{value}": [name, *smallest, f"--{flag}", value] for value in values}
    return found


def measure(arguments: list[str], steps: int = STEPS) -> dict[str, Any]:
    """A row: the run's command, its batch, and what a step of it takes."""
    flags = parse(arguments)
    parts = step_parts(flags, steps)
    return {
        "arguments": " ".join(arguments),
        "batch_size": flags.run.batch_size,
        "seq_len": flags.run.seq_len,
        **asdict(parts),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of {', '.join(runs())}; all if left out")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run that are timed")
    parser.add_argument("--store", metavar="FILE", type=Path, help="keep the rows as JSON")
    flags = parser.parse_args()
    if unknown := set(flags.names) - set(runs()):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(runs())}.")
    print(f"{'':28}{'ms':>8}" + "".join(f"{part:>10}" for part in PARTS) + f"{'looks':>10}")
    rows = {}
    for name in flags.names or runs():
        rows[name] = row = measure(runs()[name], flags.steps)
        shares = (row["parts"].get(part, 0.0) / row["seconds"] for part in PARTS)
        print(
            f"{name:28}{1e3 * row['seconds']:8.2f}"
            + "".join(f"{share:10.2%}" for share in shares)
            + f"{row['looks']:10.1f}",
            flush=True,
        )
    if flags.store:
        content = {"settings": settings(this_device()), "steps": flags.steps, "rows": rows}
        flags.store.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
