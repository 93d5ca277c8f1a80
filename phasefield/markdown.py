"""Numbers and tables as the reports write them."""

import statistics
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float | None], digits: int = 4) -> str:
    """Mean ± standard deviation of what is there; a dash for nothing."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def count(value: float) -> str:
    """A whole number with commas."""
    return f"{value:,.0f}"


def mebibytes(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / 2**20:,.2f}"
