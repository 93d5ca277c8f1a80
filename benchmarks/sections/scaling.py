"""Time and memory over the length of the sequence."""

from pathlib import Path

from ..operation import FORWARD, PIECE, STREAM, TRAINING
from ..race import OURS
from ..store import Row
from .speed import BESIDE, beside, pairs
from .tables import Measured, measured, number, table

Curve = dict[int, Row]


def curves(file: Measured) -> dict[str, dict[str, Curve]]:
    """Op → pass → T → our row, of the rows over lengths."""
    found: dict[str, dict[str, Curve]] = {}
    for row in file.rows:
        if row["part"] == "lengths" and row["competitor"].startswith(OURS):
            curve = found.setdefault(row["op"], {}).setdefault(row["pass"], {})
            curve[row["shape"]["T"]] = row
    return found


def lengths(data: Path) -> str:
    """A table of all scans over T, whole and in pieces."""
    parts = [
        "## Over the length of the sequence",
        f"Batch 1, float32. *Streamed*: in pieces of {PIECE:,} steps, each from the state of the one before, "
        "outputs dropped: memory stays the same at any length, and time grows as the length does.",
    ]
    for file in measured(data):
        found = curves(file)
        if not found:
            command = f"pytest benchmarks --benchmark-only --full --store benchmarks/data/{file.name}.json"
            parts.append(f"*{file.machine}: not measured; `{command}` does.*")
            continue
        parts += [
            f"### {file.machine}: lengths",
            f"![time a step and peak memory over T](docs/benchmarks/{file.name}-lengths.png)",
        ]
        every = sorted({T for passes in found.values() for curve in passes.values() for T in curve})
        columns = ("op", "pass", "", *(f"T {T:,}" for T in every))
        rows = []
        for op, passes in sorted(found.items()):
            for name in (FORWARD, TRAINING, STREAM):
                curve = dict(sorted(passes.get(name, {}).items()))
                label = "streamed" if name == STREAM else name
                for what, key in (("ms", "median_ms"), ("MB", "peak_mb")):
                    cells = [number(curve[T][key]) if T in curve else "" for T in every]
                    rows.append((f"`{op}`", label, what, *cells))
        parts.append(f"<details><summary>the table, ops: {len(found)}</summary>")
        parts.append(table(columns, rows))
        parts.append("</details>")
    return "\n\n".join(parts)


def sizes(data: Path) -> str:
    """Other widths, numbers of states and heads: our time beside the fastest peer's."""
    parts = ["## Over widths, states and heads", "As above; compare with the typical shape there."]
    for file in measured(data):
        rows = [beside(ours, peer) for ours, peer in pairs(file, ("further",))]
        if rows:
            parts += [f"### {file.machine}: sizes", table(BESIDE, rows)]
    return "\n\n".join(parts)
