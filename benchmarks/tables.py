"""Configuration tables as data: found in a configs module, changed number by number, written back."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from phasefield_kernels.rows import TimeLoop


class Table(NamedTuple):
    """A table of a configs.py.

    Attributes:
        source: the file.
        name: what it is assigned to there.
        key: of the table in a dictionary of tables, or None.
        rows: architecture → row; the dictionary that the op looks in.
    """

    source: Path
    name: str
    key: object
    rows: dict[int, Any]

    @contextmanager
    def trying(self, number: int, row: Any) -> Iterator[None]:
        """The op finds another row for an architecture in this block."""
        before = dict(self.rows)
        self.rows[number] = row
        try:
            yield
        finally:
            self.rows.clear()
            self.rows.update(before)


def tables(module: ModuleType) -> Iterator[Table]:
    """The tables among a configs module's public names."""
    source = Path(module.__file__)
    for name, value in vars(module).items():
        if isinstance(value, TimeLoop):
            yield Table(source, name, None, value.table)
        elif isinstance(value, dict) and not name.startswith("_"):
            if all(isinstance(rows, dict) for rows in value.values()):
                yield from (Table(source, name, key, rows) for key, rows in value.items())
            else:
                yield Table(source, name, None, value)


class Change(NamedTuple):
    """One number of a row, another one in its place.

    Attributes:
        name: the number's place, ``large.num_warps``.
        row: the changed row.
    """

    name: str
    before: int
    after: int
    row: Any

    def __str__(self) -> str:
        return f"{self.name} {self.before} -> {self.after}"

    def __hash__(self) -> int:
        return hash((self.name, self.after))


def changes(row: Any) -> Iterator[Change]:
    """Every number of a row doubled, and halved."""
    for path, name, number in _numbers(row):
        for other in (number // 2, number * 2):
            if other:
                yield Change(name, number, other, _replaced(row, path, other))


def _numbers(value: Any, path: tuple = (), name: str = "") -> Iterator[tuple[tuple, str, int]]:
    if type(value) is int:  # not a bool
        yield path, name, value
    elif isinstance(value, dict | tuple):
        for step in value if isinstance(value, dict) else range(len(value)):
            label = value._fields[step] if hasattr(value, "_fields") else str(step)
            yield from _numbers(value[step], (*path, step), f"{name}.{label}".lstrip("."))


def _replaced(value: Any, path: tuple, number: int) -> Any:
    if not path:
        return number
    step, *rest = path
    inner = _replaced(value[step], tuple(rest), number)
    if isinstance(value, dict):
        return value | {step: inner}
    items = (*value[:step], inner, *value[step + 1 :])
    return value._make(items) if hasattr(value, "_fields") else items


def rewrite(table: Table, number: int, row: Any, measured_on: str) -> None:
    """Write a row into the table's file, in place of an architecture's or beside the others."""
    text = table.source.read_text(encoding="utf-8")
    rows = _literal(ast.parse(text), table)
    own = [value for key, value in zip(rows.keys, rows.values, strict=True) if key.value == number]
    entry = f"\n# Measured on {measured_on}.\n{number}: {row!r}"
    lines = text.encode().splitlines(keepends=True)  # ast counts bytes

    def at(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + column

    encoded = text.encode()
    if own:
        key = next(key for key in rows.keys if key.value == number)
        begin, end = at(key.lineno, key.col_offset), at(own[0].end_lineno, own[0].end_col_offset)
        before = re.sub(rb"\n *# Measured on [^\n]*\n *$", b"", encoded[:begin])
    else:
        begin = end = at(rows.values[-1].end_lineno, rows.values[-1].end_col_offset)
        before, entry = encoded[:begin], f",{entry}"
    table.source.write_bytes(before + entry.encode() + encoded[end:])
    if ruff := shutil.which("ruff"):
        subprocess.run([ruff, "format", "--quiet", table.source], check=True)


def _literal(module: ast.Module, table: Table) -> ast.Dict:
    # The dictionary of a table's rows in its file.
    for statement in module.body:
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", 0)]
        )
        if getattr(targets[0], "id", None) == table.name:
            found = statement.value
            if isinstance(found, ast.Call):  # TimeLoop({…})
                found = found.args[0]
            if table.key is not None:
                keys = [ast.literal_eval(key) for key in found.keys]
                found = found.values[keys.index(table.key)]
            return found
    raise LookupError(f"{table.source} assigns no {table.name}.")
