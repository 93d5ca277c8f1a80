"""Markdown tables, numbers as they stand in them, and the measured files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..store import Row, read


class Measured(NamedTuple):
    """A ``measured-*.json``.

    Attributes:
        name: the file's, without the ending: of its plots.
        settings: of its runs.
        rows: with their ``settings`` as a number.
    """

    name: str
    settings: list[dict[str, Any]]
    rows: list[Row]

    @property
    def machine(self) -> str:
        """``Xeon, 1 thread``."""
        first = self.settings[0]
        threads = first["threads"]
        return f"{first['device']}, {threads} thread{'s' if threads > 1 else ''}"


def measured(data: Path) -> Iterator[Measured]:
    """The measured files of a folder, by name."""
    for path in sorted(data.glob("measured-*.json")):
        yield Measured(path.stem, *read(path))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    numbers = [all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    lines = [columns, ["---:" if number else "---" for number in numbers], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three digits that count: ``0.0123``, ``1.23``, ``12.3``, ``1,230``; less than a ten-thousandth is 0."""
    if value is None:
        return ""
    if abs(value) < 1e-4:
        return "0"
    if abs(value) >= 99.95:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}"


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-+"


def sizes(row: Row) -> str:
    """``B 8, T 256, D 256``."""
    return ", ".join(f"{name} {size:,}" for name, size in row["shape"].items())


def title(row: Row) -> str:
    """``rotation_scan`` or ``rotation_scan, by token``, as code."""
    return f"`{row['op']}`" + (f", {row['variant']}" if row["variant"] else "")
