"""Measured times: each op beside its best peer, the ratios to the bound, every row."""

from collections.abc import Iterable
from pathlib import Path

from ..race import OURS
from ..store import Row
from .tables import Measured, measured, number, sizes, table, title


def at_a_glance(data: Path) -> str:
    """For every op our fastest backend beside the fastest peer; then the worst ratios to the bound."""
    parts = [
        "## At a glance",
        "Forward and backward (of `hebbian_update_` the update), float32, measured: our fastest backend "
        "beside the fastest peer.",
    ]
    for file in measured(data):
        parts += [
            f"### {file.machine}: speed",
            f"![times over the fastest peer's](docs/benchmarks/{file.name}-speed.png)",
        ]
        rows = []
        for ours, peer in pairs(file):
            rows.append((
                title(ours), sizes(ours), ours["median_ms"], peer["median_ms"], peer["competitor"],
                f"{number(peer['median_ms'] / ours['median_ms'])}×", ours["ratio"], ours["limit"],
                ours["peak_mb"], peer["peak_mb"],
            ))  # fmt: skip
        parts.append(table(
            ("op", "shape", "ours, ms", "peer, ms", "fastest peer", "ours is faster by", "ratio to bound",
             "bound by", "ours, MB", "peer, MB"), rows,
        ))  # fmt: skip
        parts += _steps(file)
        worst = sorted(_candidates(file.rows), key=lambda row: -row["ratio"])[:10]
        parts += [
            "**The worst ratios to the bound**, steps aside:",
            table(
                ("op", "shape", "pass", "dtype", "ms", "ratio", "bound by"),
                [
                    (title(r), sizes(r), r["pass"], r["dtype"], r["median_ms"], r["ratio"], r["limit"])
                    for r in worst
                ],
            ),
        ]
    return "\n\n".join(parts)


def pairs(file: Measured) -> list[tuple[Row, Row]]:
    """Our fastest row and the fastest peer's of every float32 race of the typical and the long shape."""
    found = []
    for race in by_race(file.rows):
        first = race[0]
        wanted = "forward" if first["op"] == "hebbian_update_" else "forward+backward"
        if first["part"] in ("typical", "long") and (first["dtype"], first["pass"]) == ("float32", wanted):
            peers = [row for row in race if not row["competitor"].startswith(OURS)]
            if peers:
                found.append((_fastest(_ours(race)), _fastest(peers)))
    return found


def by_race(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of the same inputs together, in the file's order."""
    races: dict[str, list[Row]] = {}
    for row in rows:
        key = str([row[name] for name in ("op", "variant", "part", "pass", "dtype", "shape")])
        races.setdefault(key, []).append(row)
    return list(races.values())


def _ours(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["competitor"].startswith(OURS)]


def _fastest(rows: Iterable[Row]) -> Row:
    return min(rows, key=lambda row: row["median_ms"])


def _candidates(rows: Iterable[Row]) -> list[Row]:
    # The definition is not meant to be fast, and a step's time is that of calling it.
    return [
        row
        for row in _ours(rows)
        if row["part"] in ("typical", "long")
        and row["pass"] != "step"
        and "reference" not in row["competitor"]
    ]


def _steps(file: Measured) -> list[str]:
    rows = []
    for race in by_race(file.rows):
        if race[0]["pass"] == "step" and race[0]["dtype"] == "float32":
            ours = _fastest(_ours(race))
            peers = [row for row in race if row not in _ours(race)]
            others = ", ".join(f"{row['competitor']} {number(row['median_ms'] * 1e3)}" for row in peers)
            rows.append((title(ours), sizes(ours), ours["median_ms"] * 1e3, others))
    return (
        ["**One decoding step**, float32, µs:", table(("op", "shape", "ours", "peers"), rows)] if rows else []
    )


def every_row(data: Path) -> str:
    """All rows of all files, folded by op."""
    parts = ["## Every row"]
    for file in measured(data):
        parts.append(f"### {file.machine}: rows")
        ops: dict[str, list[Row]] = {}
        for row in file.rows:
            if row["part"] != "lengths":
                ops.setdefault(row["op"], []).append(row)
        for op, rows in ops.items():
            parts += [
                f"<details><summary><code>{op}</code>, {len(rows)} rows</summary>",
                _rows_table(rows),
                "</details>",
            ]
    return "\n\n".join(parts)


def _rows_table(rows: list[Row]) -> str:
    columns = ("pass", "variant", "shape", "dtype", "competitor", "median, ms", "quartiles, ms", "GB/s",
               "GFLOP/s", "ratio", "bound by", "MB")  # fmt: skip
    variants = any(row["variant"] for row in rows)
    cells = []
    for race in by_race(rows):
        for row in sorted(race, key=lambda row: row["median_ms"]):
            quartiles = f"{number(row['q1_ms'])} to {number(row['q3_ms'])}"
            name = f"**{row['competitor']}**" if row["competitor"].startswith(OURS) else row["competitor"]
            cells.append([
                row["pass"], row["variant"], sizes(row), row["dtype"], name, row["median_ms"], quartiles,
                row["gb_s"], row["gflop_s"], row["ratio"], row["limit"], row["peak_mb"],
            ])  # fmt: skip
    if not variants:
        columns, cells = columns[:1] + columns[2:], [row[:1] + row[2:] for row in cells]
    return table(columns, cells)
