"""A phase-field model over 262,144 tokens: memory and time as the text grows.

``python -m benchmarks.streaming`` reads random tokens in windows, its state carried, and at each length says
the nats a token so far, the most that tensors and the process take, and the CPU time of a step of decoding
from there. ``--size``, ``--tokens`` and ``--vocab`` change model and text, ``--store FILE`` keeps the rows.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from phasefield.models.phase_field import SIZES, PhaseField, PhaseFieldConfig
from phasefield.models.phase_field.interfaces import map_tensors

from .memory import peak_bytes

WINDOW = 1024
STEPS = 100


def stream(model: PhaseField, tokens: torch.Tensor) -> list[dict[str, Any]]:
    """Rows of length, nats a token, the process's size and the state: at 128, 256, … tokens to the whole."""
    lengths = {2**power for power in range(7, 40) if 2**power < len(tokens)} | {len(tokens) - 1}
    rows, place, nats, state = [], 0, 0.0, None
    process = psutil.Process()
    while place < len(tokens) - 1:
        end = min([place + WINDOW, *(length for length in lengths if length > place)])
        loss = model.loss(tokens[None, place:end], tokens[None, place + 1 : end + 1], state)
        state = loss.state
        nats += float(loss.terms["content"]) * (end - place)
        place = end
        if place in lengths:
            resident = process.memory_info().rss / 1e6
            rows.append({"tokens": place, "nats": nats / place, "process_mb": resident, "state": state})
    return rows


def count_tensors(model: PhaseField, rows: list[dict[str, Any]], tokens: torch.Tensor) -> None:
    """Put into each row the most that tensors take in a window that follows its text.

    Apart from :func:`stream`, as counting leaves the process megabytes larger: torch's profiler does it.
    """
    window = tokens[None, : WINDOW + 1]
    for row in rows:
        state = row["state"]
        peak = peak_bytes(lambda state=state: model.loss(window[:, :-1], window[:, 1:], state), "cpu")
        row["tensor_mb"] = peak / 1e6


def time_steps(model: PhaseField, rows: list[dict[str, Any]]) -> None:
    """Put into each row the CPU time of a decoding step from there, in turns: the fastest tenth's median."""
    token = torch.zeros(1, dtype=torch.int64)
    for row in rows:
        row["state"], row["times"] = map_tensors(row["state"], torch.clone), []
    for _ in range(STEPS):
        for row in rows:
            start = time.process_time()
            _, row["state"] = model.step(token, row["state"])
            row["times"].append(time.process_time() - start)
    for row in rows:
        row["step_us"] = 1e6 * statistics.median(sorted(row["times"])[: STEPS // 10])


@torch.inference_mode()
def measure(size: str, vocab: int, count: int) -> list[dict[str, Any]]:
    """The rows of a model with its first weights."""
    torch.manual_seed(0)
    model = PhaseField(PhaseFieldConfig(vocab, **SIZES[size])).eval()
    tokens = torch.randint(vocab, (count + 1,))
    rows = stream(model, tokens)
    count_tensors(model, rows, tokens)
    time_steps(model, rows)
    return [{name: value for name, value in row.items() if name not in ("state", "times")} for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--vocab", type=int, default=65, help="symbols")
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--store", metavar="FILE", help="keep the rows as JSON")
    flags = parser.parse_args()
    rows = measure(flags.size, flags.vocab, flags.tokens)
    print(f"{flags.size}, {flags.vocab} symbols, windows of {WINDOW}, {torch.get_num_threads()} threads")
    print(f"{'tokens':>9}{'nats':>9}{'tensors MB':>12}{'process MB':>12}{'µs a step':>11}")
    for row in rows:
        print(
            f"{row['tokens']:9,}{row['nats']:9.4f}{row['tensor_mb']:12.1f}{row['process_mb']:12.0f}"
            f"{row['step_us']:11.0f}"
        )
    if flags.store:
        content = {"size": flags.size, "vocab": flags.vocab, "window": WINDOW, "rows": rows}
        Path(flags.store).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
