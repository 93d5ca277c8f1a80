"""What got slower between two stored runs: ``python -m benchmarks.compare OLD NEW``.

A row is slower if its median grew by more than the threshold and its quartiles moved apart: the new first one
above the old third one. All of it relative to the peers of the same race: what slowed them, whose code is the
same, slowed the machine. The exit status is 1 if a row of ours is slower.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .race import OURS
from .store import Row, identity, read

THRESHOLD = 1.15
FEWEST_PEERS = 5
"""With fewer peers' rows in both runs they say nothing about races without one."""

UNCOMPARED = ("commit", "date", "rates")


class Change(NamedTuple):
    """A row in both runs.

    Attributes:
        ratio: of the medians, new over old, over that of the race's peers.
        apart: 1 if it became slower beyond both runs' quartiles, -1 if faster, 0 if neither.
    """

    old: Row
    new: Row
    ratio: float
    apart: int

    def __str__(self) -> str:
        row = self.new
        sizes = " ".join(f"{name}={size}" for name, size in row["shape"].items())
        what = " ".join(filter(None, (row["op"], row["variant"], row["pass"], row["dtype"], sizes)))
        medians = f"{self.old['median_ms']:.4g} -> {row['median_ms']:.4g} ms"
        return f"{self.ratio:6.2f}x  {what}, {row['competitor']}: {medians}"


def drifts(old: Sequence[Row], new: Sequence[Row]) -> defaultdict[str, float]:
    """By race how much longer its peers take, as the median ratio, new over old.

    A race without peers gets the median of all peers' rows, or 1 with fewer than five of them.
    """
    before = {identity(row): row["median_ms"] for row in old}
    ratios = defaultdict(list)
    for row in new:
        if identity(row) in before and not row["competitor"].startswith(OURS):
            ratios[_race(row)].append(row["median_ms"] / before[identity(row)])
    every = [ratio for some in ratios.values() for ratio in some]
    overall = median(every) if len(every) >= FEWEST_PEERS else 1.0
    return defaultdict(lambda: overall, {race: median(some) for race, some in ratios.items()})


def _race(row: Row) -> str:
    return identity(row | {"competitor": ""})


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Our rows that are in both runs, the largest ratio first."""
    machine = drifts(old, new)
    before = {identity(row): row for row in old}
    found = []
    for row in new:
        earlier = before.get(identity(row))
        if earlier is None or not row["competitor"].startswith(OURS):
            continue
        drift = machine[_race(row)]
        slower = row["q1_ms"] / drift > earlier["q3_ms"]
        faster = row["q3_ms"] / drift < earlier["q1_ms"]
        ratio = row["median_ms"] / drift / earlier["median_ms"]
        found.append(Change(earlier, row, ratio, slower - faster))
    return sorted(found, key=lambda change: -change.ratio)


def slower(found: Sequence[Change], threshold: float = THRESHOLD) -> list[Change]:
    """Those that became slower by more than the threshold, beyond the quartiles."""
    return [change for change in found if change.apart > 0 and change.ratio > threshold]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what changed; the exit status is 1 if anything of ours got slower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="a file written by pytest benchmarks --store")
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="times as slow (%(default)s)")
    options = parser.parse_args(arguments)
    (old_settings, old), (new_settings, new) = read(options.old), read(options.new)
    for name in sorted({name for run in old_settings + new_settings for name in run} - {*UNCOMPARED}):
        values = [sorted({str(run.get(name)) for run in runs}) for runs in (old_settings, new_settings)]
        if values[0] != values[1]:
            print(f"Not measured alike: {name} is {', '.join(values[0])}, now {', '.join(values[1])}.")
    found = changes(old, new)
    worse = slower(found, options.threshold)
    better = [c for c in found if c.apart < 0 and c.ratio < 1 / options.threshold]
    print(f"{len(found)} rows in both; the peers' ratios, {_span(drifts(old, new))}, are taken out.")
    for title, some in (("SLOWER", worse), ("faster", better)):
        print(f"{title}: {len(some)}", *some, sep="\n  ")
    return int(bool(worse))


def _span(ratios: Mapping[str, float]) -> str:
    return (
        f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f}" if ratios else "of which there are none"
    )


if __name__ == "__main__":
    raise SystemExit(main())
