"""What is known of the fused kernels without timing them: predictions, machine code, traffic."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .tables import table

Row = dict[str, Any]


def predicted_times(data: Path) -> str:
    """Times on named cards, from a model."""
    return _section(
        data,
        "predicted.json",
        "Predicted GPU times",
        "**Predicted, not measured**, in ms: the largest of bytes over bandwidth, tensor operations over "
        "their rate, issue slots and special functions over theirs, plus the latency of launches; "
        "`benchmarks/predict.py` explains the model. What PyTorch does between launches is left out (bytes: "
        "the table of traffic). What limits, and the bound by bandwidth alone, are "
        "those of the first card.",
        "python -m benchmarks.predict",
        _by_card,
    )


def machine_code(data: Path) -> str:
    """Registers, spills, shared memory, occupancy."""
    return _section(
        data,
        "gpu_report.json",
        "Machine code",
        "Compiled for sm_80, 86, 89, 90, 120 and gfx942, read from the machine code; here the largest of a "
        "kernel's configurations on sm_86 (RTX 30), and the least occupancy, which is computed. An RTX card "
        "has 101,376 B of shared memory a block. The file has every configuration and target.",
        "python -m benchmarks.gpu_report --json benchmarks/data/gpu_report.json",
        _by_kernel,
    )


def peer_kernels(data: Path) -> str:
    """Peers' Triton kernels through the same compiler."""
    return _section(
        data,
        "peer_kernels.json",
        "Peers' Triton kernels",
        "Other packages' kernels, compiled for sm_86 through the same harness, beside ours on equal work; "
        "estimated from machine code, no times. Theirs run in the best of their configurations by this "
        "count; some of those do not fit the card.",
        "python -m benchmarks.peer_kernels",
        _beside_peers,
    )


def traffic(data: Path) -> str:
    """Bytes moved over bytes that must move."""
    return _section(
        data,
        "traffic.json",
        "Memory traffic",
        "Counted in Triton's interpreter: bytes requested over those that must move, the most that the gate "
        "allows, and bytes of sectors over bytes used. The file has every tensor.",
        "python -m benchmarks.traffic --json benchmarks/data/traffic.json",
        _by_path,
    )


def _by_card(rows: list[Row]) -> str:
    cards = list(dict.fromkeys(row["card"] for row in rows))
    cases: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        shape = " × ".join(map(str, row["shape"]))
        cases[row["op"], row["path"], shape][row["card"]] = row
    columns = ["op", "path", "shape", "launches", *cards, "limited by", "bandwidth bound"]
    cells = []
    for (op, path, shape), by_card in cases.items():
        first = by_card[cards[0]]
        times = [by_card[card]["predicted_ms"] if card in by_card else "" for card in cards]
        bound = first["bandwidth_bound_ms"]
        cells.append([f"`{op}`", path, shape, first["launches"], *times, first["limiting"], bound])
    return table(columns, cells)


def _by_kernel(rows: list[Row]) -> str:
    kernels: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["target"] == "sm_86":
            kernels[row["op"], row["kernel"]].append(row)
    columns = [
        "op",
        "kernel",
        "configurations",
        "registers",
        "spilled",
        "shared memory, B",
        "occupancy",
        "MMA",
    ]
    cells = []
    for (op, kernel), own in kernels.items():
        largest = [max(row[name] for row in own) for name in ("registers", "spilled", "shared_memory")]
        occupancy = min(row["occupancy"] for row in own)
        products = "yes" if all(row["tensor_core"] for row in own) else ""
        if not products and any(row["tensor_core"] for row in own):
            products = "some"
        cells.append([f"`{op}`", f"`{kernel}`", len(own), *largest, occupancy, products])
    return table(columns, cells)


def _beside_peers(rows: list[Row]) -> str:
    columns = {
        "work": "work",
        "by": "by",
        "launches": "launches",
        "bytes_per_element": "B / element",
        "instructions_per_element": "instructions / element",
        "registers": "registers",
        "shared_memory": "shared memory, B",
        "configurations": "configurations",
        "not_usable": "not usable",
        "worse_in": "we are worse in",
    }
    return table(list(columns.values()), [[row[name] for name in columns] for row in rows])


def _by_path(rows: list[Row]) -> str:
    columns = ["op", "path", "requested / bound", "allowed", "sectors", "launches"]
    names = ("ratio", "allowed", "sectors", "launches")
    whole = [row for row in rows if row["tensor"] == "all"]
    return table(columns, [[f"`{row['op']}`", row["path"], *(row[name] for name in names)] for row in whole])


def _section(
    data: Path, name: str, title: str, text: str, command: str, cells: Callable[[list[Row]], str]
) -> str:
    path = data / name
    if not path.exists():
        return f"## {title}\n\n*Left out: there is no `benchmarks/data/{name}`. `{command}` makes it.*"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    body = cells(rows)
    fold = f"<details><summary>{body.count(chr(10)) - 1} rows</summary>\n\n{body}\n\n</details>"
    return f"## {title}\n\n{text} (`{command}`)\n\n{fold}"
