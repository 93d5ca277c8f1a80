"""What is known of the fused kernels without timing them: predictions, machine code, traffic."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .tables import table


def predicted_times(data: Path) -> str:
    """Times on named cards, from a model."""
    return _section(
        data,
        "predicted.json",
        "Predicted GPU times",
        "**Predicted, not measured**: the largest of bytes over bandwidth, tensor operations over "
        "their rate, issue slots and special functions over theirs, and the latency of launches.",
        "python -m benchmarks.gpu_report",
    )


def machine_code(data: Path) -> str:
    """Registers, spills, shared memory, occupancy."""
    return _section(
        data,
        "gpu_report.json",
        "Machine code",
        "Compiled for each target; read from the machine code. Occupancy is computed.",
        "python -m benchmarks.gpu_report",
    )


def peer_kernels(data: Path) -> str:
    """Peers' Triton kernels through the same compiler."""
    return _section(
        data,
        "peer_kernels.json",
        "Peers' Triton kernels",
        "Other packages' kernels, compiled through the same harness, beside ours on equal work.",
        "python -m benchmarks.gpu_report",
    )


def traffic(data: Path) -> str:
    """Bytes moved over bytes that must move."""
    return _section(
        data,
        "traffic.json",
        "Memory traffic",
        "Counted in Triton's interpreter: bytes requested and touched, over those that must move.",
        "python -m benchmarks.traffic",
    )


def _section(data: Path, name: str, title: str, text: str, command: str) -> str:
    path = data / name
    if not path.exists():
        return f"## {title}\n\n*Left out: there is no `benchmarks/data/{name}`. `{command}` makes it.*"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows: list[Mapping[str, Any]] = content["rows"] if isinstance(content, dict) else content
    columns = list(rows[0])
    cells = table(columns, [[row[column] for column in columns] for row in rows])
    fold = f"<details><summary>{len(rows)} rows</summary>\n\n{cells}\n\n</details>"
    return f"## {title}\n\n{text}\n\n{fold}"
