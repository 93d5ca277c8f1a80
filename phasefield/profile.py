"""``phasefield profile MODEL``: speed, memory, and where the time goes, by batch size and length."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from . import command_line
from .comparison.store import as_json
from .errors import UsageError, UserError, reported
from .markdown import count, mebibytes, table
from .models import MODELS
from .profiling.measure import Workload
from .profiling.steps import step_parts
from .train import parse
from .training.device import describe_device, out_of_memory_reported, pick_backend, pick_device
from .training.durable import replace_text
from .training.flags import flags_of_size, known_model


@dataclass(frozen=True)
class ProfileFlags:
    """What is measured.

    Raises:
        UsageError: a value out of range; the message names the flag.
    """

    model: Annotated[str, tyro.conf.Positional] = "landauer"
    """one of the models"""
    size: str | None = None
    """of the model, if it has sizes; its defaults if left out"""
    batch_sizes: str = "1,4,8,16"
    """sequences at once, separated by commas"""
    seq_lengths: str = "128,256,512"
    """tokens a sequence, separated by commas"""
    symbols: int = 65
    """of the vocabulary; the tokens are random"""
    repeats: int = 3
    """steps of which the median is taken"""
    output: str = "profile"
    """folder for the table, the numbers and a trace"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …"""

    def __post_init__(self) -> None:
        for flag, value in (("--symbols", self.symbols), ("--repeats", self.repeats)):
            if value < 1:
                raise UsageError(f"{flag} is {value}; it must be at least 1.")
        if self.output == "":
            raise UsageError("--output is ''; it must be a folder.")
        list(self.cells)

    @property
    def cells(self) -> Iterator[tuple[int, int]]:
        """``(batch size, length)``, the smallest first."""
        sizes = _numbers("--batch-sizes", self.batch_sizes), _numbers("--seq-lengths", self.seq_lengths)
        return itertools.product(*sizes)


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Measure each cell and print its row; write profile.md, profile.json and trace.json."""
    flags = command_line.parse_flags(
        ProfileFlags,
        arguments,
        command="phasefield profile",
        description="Measure a model on random tokens: phasefield profile [MODEL] [FLAGS]. MODEL is one of "
        f"{', '.join(MODELS)}.",
    )
    device = pick_device(flags.device)
    backend = pick_backend(device)
    entry = known_model(flags.model)
    of_size = flags_of_size(flags.model, flags.size)
    folder = Path(flags.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror or error}.") from error
    torch.manual_seed(0)
    with reported(ValueError):
        model = entry.model_class(entry.config_class(flags.symbols, **of_size)).to(device)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if entry.local:
        numbers = sum(amount for _, amount in model.adaptable())
    results: dict[str, Any] = {
        "model": flags.model,
        "size": flags.size,
        "numbers": numbers,
        "symbols": flags.symbols,
        "device": describe_device(device),
        "backend": backend,
        "torch_version": torch.__version__,
        "cells": [],
    }
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{flags.model}: {numbers:,} {'adaptable numbers' if entry.local else 'parameters'}")
    console.print(f"on {results['device']}, {backend} backend, {flags.symbols} symbols\n")
    for batch_size, seq_len in flags.cells:
        work = Workload(model, batch_size, seq_len, flags.symbols, device)
        first = not results["cells"]
        results["cells"].append({"batch_size": batch_size, "seq_len": seq_len, **work.measure(flags.repeats)})
        lines = _speeds(results["cells"][-1:]).splitlines()
        console.print("\n".join(lines if first else lines[2:]))
        if first:
            work.trace(folder / "trace.json")
    parts = _parts(results["cells"])
    console.print(f"\n{parts}")
    sized = [] if flags.size is None else ["--size", flags.size]
    of_run = parse([flags.model, *sized, "--device", str(device)])
    results["step"] = {
        "batch_size": of_run.run.batch_size,
        "seq_len": of_run.run.seq_len,
        **asdict(step_parts(of_run)),
    }
    step = _step(results["step"])
    console.print(f"\n{step}")
    with reported(OSError):
        replace_text(folder / "profile.json", as_json(results))
        replace_text(folder / "profile.md", _report(results, parts, step))
    console.print(f"\nwrote profile.md, profile.json and trace.json (for ui.perfetto.dev) in {folder}")
    return 0


def _numbers(flag: str, text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"{flag} is {text!r}; it must be numbers of at least 1, such as 1,4,8.")
    return sorted({int(word) for word in words})


def _speeds(cells: Sequence[dict[str, Any]]) -> str:
    shown = {
        "tokens/s": lambda of_kind: count(of_kind["tokens_per_second"]),
        "tokens per processor second": lambda of_kind: count(of_kind["tokens_per_processor_second"]),
        "MiB": lambda of_kind: mebibytes(of_kind["peak_bytes"]),
    }
    columns = [(kind, what) for what in shown for kind in ("training", "reading")]
    head = ["batch", "length", *(f"{kind}, {what}" for kind, what in columns)]
    rows = [
        [str(cell["batch_size"]), str(cell["seq_len"]), *(shown[what](cell[kind]) for kind, what in columns)]
        for cell in cells
    ]
    return table(head, rows)


def _parts(cells: Sequence[dict[str, Any]]) -> str:
    """The time by part at the smallest and the largest cell."""
    ends = cells[:1] if len(cells) < 2 else [cells[0], cells[-1]]
    head = ["training step by part"] + [f"{cell['batch_size']} × {cell['seq_len']}" for cell in ends]
    rows = [[part, *(_share(part, cell["parts"]) for cell in ends)] for part in ends[-1]["parts"]]
    return table(head, rows)


def _step(step: dict[str, Any]) -> str:
    """The time by part of a step of ``phasefield train``."""
    head = ["step of `phasefield train`", f"{step['batch_size']} × {step['seq_len']}"]
    largest_first = sorted(step["parts"], key=step["parts"].__getitem__, reverse=True)
    return table(head, [[part, _share(part, step["parts"])] for part in largest_first])


def _share(part: str, parts: dict[str, float]) -> str:
    seconds, total = parts.get(part, 0.0), sum(parts.values())
    return f"{1e3 * seconds:,.2f} ms, {seconds / total:.0%}"


def _report(results: dict[str, Any], parts: str, step: str) -> str:
    size = f", {results['size']}" if results["size"] else ""
    sections = [
        f"# Profile of {results['model']}{size}",
        f"{results['numbers']:,} numbers that learn, {results['symbols']} symbols; {results['device']}, "
        f"{results['backend']} backend, torch {results['torch_version']}. Memory: weights, what the "
        "optimizer keeps, and the most that is needed besides at a time.",
        _speeds(results["cells"]),
        "A part's time is its own, without the parts inside it; `rest` is what the model does between them.",
        parts,
        "A step of `phasefield train`, its own batch of its own text, by what its loop calls: `looks` is "
        "Python reading values, which waits for a GPU, `rest` what the loop does between its parts. On a CPU "
        "these are seconds of the processor, which other programs hardly change.",
        step,
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    sys.exit(command_line.run(run))
