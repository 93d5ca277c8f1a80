"""Writes BENCHMARKS.md and its pictures from the stored data: ``python -m benchmarks.report``.

The page is a list of sections, each a function of the data folder that returns Markdown. A section whose file
is missing says which command makes it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .machine import ROOT
from .sections import gpu, method, scaling, speed, training
from .sections.plots import draw_plots

DATA = ROOT / "benchmarks" / "data"
PAGE = ROOT / "BENCHMARKS.md"
PLOTS = ROOT / "docs" / "benchmarks"

Section = Callable[[Path], str]

SECTIONS: tuple[Section, ...] = (
    method.introduction,
    speed.at_a_glance,
    scaling.lengths,
    scaling.sizes,
    training.runs,
    training.step_shares,
    gpu.predicted_times,
    gpu.machine_code,
    gpu.peer_kernels,
    gpu.traffic,
    method.how_it_is_measured,
    method.machines,
    speed.every_row,
    method.how_to_add_rows,
)


def page(data: Path = DATA) -> str:
    """BENCHMARKS.md from a data folder."""
    return "\n".join(section(data).strip() + "\n" for section in SECTIONS)


def main() -> None:
    """Write the page and its pictures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    for path in (PAGE, *draw_plots(DATA, PLOTS)):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
