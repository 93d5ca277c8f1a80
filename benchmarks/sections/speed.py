"""Measured times: each op beside its best peer, the ratios to the bound, every row."""

from collections.abc import Collection, Iterable
from pathlib import Path

from ..race import OURS
from ..store import Row
from .tables import Measured, measured, number, sizes, table, title

BESIDE = (
    *("op", "shape", "ours, ms", "peer, ms", "fastest peer", "ours is faster by"),
    *("ratio to bound", "bound by", "ours, MB", "peer, MB"),
)
WORST = ("op", "shape", "pass", "ms", "ratio", "bound by")
ROWS = (
    *("pass", "variant", "shape", "dtype", "competitor", "median, ms", "quartiles, ms"),
    *("GB/s", "GFLOP/s", "ratio", "bound by", "MB"),
)


def at_a_glance(data: Path) -> str:
    """For every op our time beside the fastest peer's; steps; the worst ratios to the bound."""
    parts = [
        "## At a glance",
        "Forward and backward (of `hebbian_update_` the update), float32, measured: ours beside the "
        "fastest of the peers.",
    ]
    for file in measured(data):
        parts += [
            f"### {file.machine}: speed",
            f"![times over the fastest peer's](docs/benchmarks/{file.name}-speed.png)",
            table(BESIDE, [beside(ours, peer) for ours, peer in pairs(file)]),
            "**One decoding step**, float32, µs:",
            table(("op", "shape", "ours", "peers"), _steps(file)),
            "**The worst ratios to the bound**, steps aside, float32:",
            table(WORST, [_ratio(row) for row in _worst(file.rows, "float32")]),
            "…and bfloat16, whose products may be much faster here than the float32 ones of the sums:",
            table(WORST, [_ratio(row) for row in _worst(file.rows, "bfloat16")]),
        ]
    return "\n\n".join(parts)


def beside(ours: Row, peer: Row) -> list[object]:
    """A line of a table with the columns :data:`BESIDE`."""
    faster = f"{number(peer['median_ms'] / ours['median_ms'])}×"
    return [
        *(title(ours), sizes(ours), ours["median_ms"], peer["median_ms"], peer["competitor"], faster),
        *(ours["ratio"], ours["limit"], ours["peak_mb"], peer["peak_mb"]),
    ]


def _ratio(row: Row) -> list[object]:
    return [title(row), sizes(row), *(row[n] for n in ("pass", "median_ms", "ratio", "limit"))]


def pairs(file: Measured, parts: Collection[str] = ("typical", "long")) -> list[tuple[Row, Row]]:
    """Our row and the fastest peer's of every float32 race of some parts, with gradients if it has any."""
    found = []
    for race in by_race(file.rows):
        first = race[0]
        wanted = "forward" if first["op"] == "hebbian_update_" else "forward+backward"
        if first["part"] in parts and (first["dtype"], first["pass"]) == ("float32", wanted):
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
    # The reference is the definition, and not meant to be fast.
    return [r for r in rows if r["competitor"].startswith(OURS) and "reference" not in r["competitor"]]


def _fastest(rows: Iterable[Row]) -> Row:
    return min(rows, key=lambda row: row["median_ms"])


def _worst(rows: Iterable[Row], dtype: str, count: int = 8) -> list[Row]:
    # Of each race the fastest of our forms, which is the one that a user gets.
    whole = [
        _fastest(ours)
        for race in by_race(rows)
        if (ours := _ours(race))
        and race[0]["part"] in ("typical", "long")
        and race[0]["pass"] != "step"
        and race[0]["dtype"] == dtype
    ]
    return sorted(whole, key=lambda row: -row["ratio"])[:count]


def _steps(file: Measured) -> list[list[object]]:
    rows = []
    for race in by_race(file.rows):
        if race[0]["pass"] == "step" and race[0]["dtype"] == "float32":
            ours = _fastest(_ours(race))
            peers = [row for row in race if not row["competitor"].startswith(OURS)]
            others = ", ".join(f"{row['competitor']} {number(row['median_ms'] * 1e3)}" for row in peers)
            rows.append([title(ours), sizes(ours), ours["median_ms"] * 1e3, others])
    return rows


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
    cells = []
    for race in by_race(rows):
        for row in sorted(race, key=lambda row: row["median_ms"]):
            quartiles = f"{number(row['q1_ms'])} to {number(row['q3_ms'])}"
            name = f"**{row['competitor']}**" if row["competitor"].startswith(OURS) else row["competitor"]
            cells.append([
                *(row["pass"], row["variant"], sizes(row), row["dtype"], name, row["median_ms"], quartiles),
                *(row[column] for column in ("gb_s", "gflop_s", "ratio", "limit", "peak_mb")),
            ])  # fmt: skip
    if any(row["variant"] for row in rows):
        return table(ROWS, cells)
    return table(ROWS[:1] + ROWS[2:], [row[:1] + row[2:] for row in cells])
