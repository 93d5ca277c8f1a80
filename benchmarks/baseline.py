"""Committed figures that a run is held against: what is worse fails, what is better or new is told.

A baseline is a JSON file of rows with a note of what made them. Nothing in it is a time.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]

DATA = Path(__file__).parent / "data"


class Difference(NamedTuple):
    """Rows beside a baseline's.

    Attributes:
        worse: what regressed, a sentence each.
        better: keys of rows whose figures changed otherwise.
        new: keys that the baseline lacks.
        gone: its keys that were not seen again.
    """

    worse: list[str]
    better: list[str]
    new: list[str]
    gone: list[str]


def compare(
    stored: Iterable[Row],
    rows: Iterable[Row],
    keys: Sequence[str],
    regressions: Callable[[Row, Row], list[str]],
) -> Difference:
    """Rows by their keys beside a baseline's.

    Args:
        keys: names of the fields that name a row.
        regressions: what of a row, given second, is worse than before.
    """

    def name(row: Row) -> str:
        return ", ".join(str(row[key]) for key in keys)

    before = {name(row): row for row in stored}
    # Through JSON, where keys are strings.
    after = {name(row): row for row in json.loads(json.dumps(list(rows)))}
    same = [key for key in after if key in before]
    worse = {key: found for key in same if (found := regressions(before[key], after[key]))}
    return Difference(
        worse=[f"{key}: {'; '.join(found)}" for key, found in worse.items()],
        better=[key for key in same if key not in worse and before[key] != after[key]],
        new=[key for key in after if key not in before],
        gone=[key for key in before if key not in after],
    )


def read(path: Path) -> list[Row]:
    """A baseline's rows; none if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, one to a line: changes are then seen line by line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    made_by = json.dumps({name: version(name) for name in ("triton", "torch")})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"versions": {made_by}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--accept``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--accept", action="store_true", help="take these figures as the new baseline")


def finish(
    arguments: argparse.Namespace,
    path: Path,
    rows: list[Row],
    keys: Sequence[str],
    regressions: Callable[[Row, Row], list[str]],
    faults: int,
) -> int:
    """Write what was asked for, print the difference; the exit status: 1 for faults and regressions.

    Rows of ops and targets that were left out of a run count as neither gone nor accepted.
    """
    if arguments.json:
        write(arguments.json, rows)
    seen = {tuple(row.get(key) for key in ("target", "op")) for row in rows}
    stored = read(path)
    here = [row for row in stored if tuple(row.get(key) for key in ("target", "op")) in seen]
    difference = compare(here, rows, keys, regressions)
    for heading, names in zip(("worse", "changed, not worse", "new", "gone"), difference, strict=True):
        if names:
            print(f"{heading}, {len(names)} of {len(rows)} rows:")
            shown = names if heading == "worse" else names[:10]
            print("\n".join(f"  {name}" for name in shown) + ("\n  …" if len(shown) < len(names) else ""))
    if arguments.accept:
        write(path, [*(row for row in stored if row not in here), *rows])
        print(f"written: {path}")
    elif difference.worse:
        print("Worse than the baseline. If that is meant, run again with --accept and commit the file.")
    print(f"{faults} faults, {0 if arguments.accept else len(difference.worse)} regressions")
    return int(faults > 0 or bool(difference.worse and not arguments.accept))
