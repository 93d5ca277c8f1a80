"""Stored rows: a JSON file of settings and of rows that name theirs, one row a line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

IDENTITY = ("op", "variant", "part", "pass", "dtype", "shape", "competitor")


def identity(row: Row) -> str:
    """What makes two rows the same measurement."""
    return json.dumps([row[name] for name in IDENTITY], sort_keys=True)


def read(path: Path) -> tuple[list[dict[str, Any]], list[Row]]:
    """The settings of a file's runs, and its rows; a row's ``settings`` counts them from 0."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["settings"], content["rows"]


def write(path: Path, settings: list[dict[str, Any]], rows: Iterable[Row]) -> None:
    """Write a file, a row a line, so that changes can be read line by line."""
    parts = [",\n".join(json.dumps(item, ensure_ascii=False) for item in items) for items in (settings, rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{{"settings": [\n{}\n],\n"rows": [\n{}\n]}}\n'.format(*parts), encoding="utf-8")


def merge(path: Path, settings: dict[str, Any], rows: Iterable[Row]) -> None:
    """Add a run to a file: its rows replace those of the same measurement; settings without rows go."""
    runs, kept = read(path) if path.exists() else ([], [])
    rows = [row | {"settings": len(runs)} for row in rows]
    replaced = {identity(row) for row in rows}
    kept = sorted([row for row in kept if identity(row) not in replaced] + rows, key=identity)
    runs.append(settings)
    used = sorted({row["settings"] for row in kept})
    renumbered = {old: new for new, old in enumerate(used)}
    write(
        path,
        [runs[number] for number in used],
        [row | {"settings": renumbered[row["settings"]]} for row in kept],
    )
