"""Everything that a GPU's owner can tell us, in one command: ``python -m benchmarks.on_gpu``.

Under ten minutes: whether every fused op computes what its definition says on this device, how long its
first call takes, the predicted cases timed, the microbenchmarks with peers, tokens a second and memory of
each registered model in training, and its time a token in decoding. JSON, a Markdown section and plots go
to one folder; beside each measured time stands what was predicted for the card and by how much it was off.

A part that fails is told in the report, and the exit status is then 1. ``--device cpu`` runs all that needs
no GPU, on tiny sizes: that is how this file is tested.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import baseline
from .cards import CARDS

ROOT = Path(__file__).parent.parent
MICROBENCHMARK_SECONDS = 270
Row = dict[str, Any]


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median time of a call: between events with the L2 cache flushed on a GPU, by the clock on a CPU."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return do_bench(call, return_mode="median") / 1e3
    call()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return sorted(times)[1]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def correctness(device: torch.device) -> list[Row]:
    """Values and gradients of every op, as ``phasefield doctor`` checks them; and its first call's seconds.

    Kernels are compiled anew: Triton's cache is an empty folder.
    """
    from phasefield.doctor import CHECKS, check_op

    rows = []
    for op, (function, make_inputs) in CHECKS.items():
        inputs = [tensor.to(device) for tensor in make_inputs()]
        begin = time.perf_counter()
        function(*inputs, backend=None)
        synchronize(device)
        first = time.perf_counter() - begin
        verdict, good = check_op(function, make_inputs, device)
        rows.append({"op": op, "good": good, "verdict": verdict, "first_call_s": round(first, 3)})
    return rows


def predicted_cases(device: torch.device) -> list[Row]:
    """The cases that times are predicted for, timed."""
    from .predict_counts import WANTED, sizes_of_models, wanted_cases

    rows = []
    with torch.device(device), sizes_of_models():
        for op, case in wanted_cases(list(WANTED)):
            work = case.prepare()
            rows.append({"op": op, "path": case.name, "measured_ms": seconds(work.run, device) * 1e3})
    return rows


def card_of(name: str) -> str | None:
    """The card of :data:`benchmarks.cards.CARDS` that a device's name tells, None for any other."""
    words = name.replace("-", " ").split()
    return next((card for card in CARDS if card.split()[-1] in words and _no_suffix(words, card)), None)


def _no_suffix(words: list[str], card: str) -> bool:
    # An RTX 3070 Ti or a laptop's is another card.
    return not {"Ti", "SUPER", "Laptop", "D"} & set(words[words.index(card.split()[-1]) + 1 :])


def against_predictions(measured: Iterable[Row], predicted: Iterable[Row], card: str | None) -> list[Row]:
    """Each measured case with what was predicted for the card; ``ratio`` is measured over predicted.

    Without a prediction, or on a card that has none, both are None.
    """
    known = {(row["op"], row["path"]): row for row in predicted if row["card"] == card}
    rows = []
    for row in measured:
        found = known.get((row["op"], row["path"]))
        expected = found["predicted_ms"] if found else None
        rows.append(
            row
            | {"predicted_ms": expected, "limiting": found["limiting"] if found else None}
            | {"ratio": round(row["measured_ms"] / expected, 2) if expected else None}
        )
    return rows


def models(device: torch.device) -> list[Row]:
    """Tokens a second and peak memory of training, and milliseconds a decoded token, of each size."""
    from phasefield.models import MODELS

    batch, length, vocabulary = (8, 256, 256) if device.type == "cuda" else (2, 16, 32)
    rows = []
    for name, entry in MODELS.items():
        for size, fields in (entry.sizes or {"default": {}}).items():
            torch.manual_seed(0)
            model = entry.model_class(entry.config_class(vocab_size=vocabulary, **fields)).to(device)
            tokens = torch.randint(vocabulary, (batch, length + 1), device=device)

            def train(model: torch.nn.Module = model, tokens: torch.Tensor = tokens) -> None:
                model.zero_grad()
                model.loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).total.backward()

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            row = {"model": name, "size": size, "parameters": sum(p.numel() for p in model.parameters())}
            row["train_tokens_s"] = round(batch * length / seconds(train, device))
            peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
            row["peak_mib"] = peak and round(peak)
            row["decode_ms"] = _decode_ms(model, device) if entry.causal else None
            rows.append(row)
    return rows


@torch.no_grad()
def _decode_ms(model: torch.nn.Module, device: torch.device, tokens: int = 32) -> float:
    model.eval()
    token, state = torch.zeros(1, dtype=torch.long, device=device), model.init_state(1)
    _, state = model.step(token, state)
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(tokens):
        _, state = model.step(token, state)
    synchronize(device)
    return round((time.perf_counter() - begin) / tokens * 1e3, 4)


def microbenchmarks(folder: Path) -> list[Row]:
    """``pytest benchmarks --benchmark-only``, its quick set with peers; its rows.

    Raises:
        RuntimeError: it failed, with the end of what it wrote.
    """
    store = folder / "microbenchmarks.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", "--store", str(store)]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=MICROBENCHMARK_SECONDS
    )
    if process.returncode:
        raise RuntimeError((process.stdout + process.stderr)[-2000:])
    return json.loads(store.read_text(encoding="utf-8"))["rows"]


def machine(device: torch.device) -> Row:
    """What was run on."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        import triton

        found |= {"gpu": torch.cuda.get_device_name(device), "triton": triton.__version__}
        found |= {"cuda": torch.version.cuda, "capability": list(torch.cuda.get_device_capability(device))}
        found |= {"memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)}
    return found


def run(parts: Mapping[str, Callable[[], list[Row]]], say: Callable[[str], None] = print) -> Row:
    """Rows by part, with the seconds that each took; of one that fails, ``error`` in their place."""
    found: Row = {}
    for name, part in parts.items():
        begin = time.perf_counter()
        try:
            found[name] = {"rows": part()}
        except Exception as error:  # the other parts' results are worth having
            found[name] = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        found[name]["seconds"] = round(time.perf_counter() - begin, 1)
        say(f"{name}: {found[name]['seconds']} s" + (", FAILED" if "error" in found[name] else ""))
    return found


def failures(found: Mapping[str, Row]) -> list[str]:
    """Parts that failed, and ops that computed something else."""
    broken = [f"{name}: {part['error'].splitlines()[0]}" for name, part in found.items() if "error" in part]
    rows = found.get("correctness", {}).get("rows", [])
    return broken + [f"{row['op']}: {row['verdict']}" for row in rows if not row["good"]]


def markdown(what: Mapping[str, Any], found: Mapping[str, Row]) -> str:
    """A section for people."""
    name = what.get("gpu", what["device"])
    lines = [f"## Measured on {name}", "", ", ".join(f"{key} {value}" for key, value in what.items()), ""]
    if broken := failures(found):
        lines += ["**Failed:**", "", *(f"- {line}" for line in broken), ""]
    for part, result in found.items():
        rows = result.get("rows")
        if not rows:
            continue
        columns = list(rows[0])
        lines += [f"### {part.replace('_', ' ').capitalize()}", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|")


def plot(rows: list[Row], path: Path) -> None:
    """Measured times beside predicted ones, where there are any."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = [f"{row['op']}\n{row['path']}" for row in rows]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1.5))
    places = range(len(rows))
    axes.barh([p - 0.2 for p in places], [r["measured_ms"] for r in rows], 0.4, label="measured")
    axes.barh([p + 0.2 for p in places], [r["predicted_ms"] or 0 for r in rows], 0.4, label="predicted")
    axes.set_yticks(list(places), labels, fontsize=6)
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.invert_yaxis()
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parts_for(device: torch.device, folder: Path) -> dict[str, Callable[[], list[Row]]]:
    """What runs on a device: timed cases and microbenchmarks only on a GPU."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "correctness": lambda: correctness(device),
        "models": lambda: models(device),
    }
    if device.type == "cuda":
        card = card_of(torch.cuda.get_device_name(device))
        stored = baseline.read(baseline.DATA / "predicted.json")
        parts["predictions"] = lambda: against_predictions(predicted_cases(device), stored, card)
        if (ROOT / "benchmarks" / "conftest.py").exists():
            parts["microbenchmarks"] = lambda: microbenchmarks(folder)
    return parts


def main() -> int:
    """Run it all; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description="What the kernels and models do on this machine's GPU.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run")
    parser.add_argument("--output", type=Path, default=ROOT / ".benchmarks" / "on_gpu", metavar="FOLDER")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device is 'cuda', but PyTorch sees no GPU here; allowed is cpu, for a dry run.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # first calls compile
        found = run(parts_for(device, arguments.output))
    what = machine(device)
    report = json.dumps({"machine": what, "parts": found}, indent=1, ensure_ascii=False)
    (arguments.output / "results.json").write_text(report + "\n", encoding="utf-8")
    (arguments.output / "section.md").write_text(markdown(what, found), encoding="utf-8")
    if rows := found.get("predictions", {}).get("rows"):
        plot(rows, arguments.output / "predictions.png")
    for line in failures(found):
        print(f"FAILED {line}")
    print(f"written: {arguments.output}")
    return int(bool(failures(found)))


if __name__ == "__main__":
    raise SystemExit(main())
