"""The pictures of BENCHMARKS.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..operation import FORWARD, STREAM
from .scaling import curves
from .speed import pairs
from .tables import Measured, measured, number

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_BLUE, _ORANGE, _GREY = "#3b6ea5", "#d1660f", "#555555"


def draw_plots(data: Path, folder: Path) -> Iterator[Path]:
    """Draw the pictures of every measured file; yields their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in measured(data):
        yield _speed(file, folder / f"{file.name}-speed.png")
        if curves(file):
            yield _lengths(file, folder / f"{file.name}-lengths.png")


def _speed(file: Measured, path: Path) -> Path:
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    bars = []
    for ours, peer in pairs(file):
        name = ours["op"] + (f", {ours['variant']}" if ours["variant"] else "")
        length = f"T {ours['shape']['T']:,}" if "T" in ours["shape"] else ours["part"]
        bars.append((peer["median_ms"] / ours["median_ms"], f"{name}, {length}", peer["competitor"]))
    bars.sort()
    figure = Figure(figsize=(8, 0.27 * len(bars) + 1.1), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    colors = [_BLUE if factor >= 1 else _ORANGE for factor, *_ in bars]
    axes.barh(range(len(bars)), [factor - 1 for factor, *_ in bars], left=1, color=colors, height=0.7)
    for index, (factor, _, peer) in enumerate(bars):
        axes.annotate(
            f" {number(factor)}×  {peer}", (max(factor, 1), index), va="center", fontsize=7, color=_GREY
        )
    axes.axvline(1, color=_GREY, linewidth=0.8)
    axes.set_xscale("log")
    least, most = bars[0][0], bars[-1][0]
    axes.set_xlim(min(least, 1) / 1.2, max(most, 1) * 3)
    _plain_ticks(axes.xaxis, *axes.get_xlim(), unit="×")
    axes.minorticks_off()
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars], fontsize=8)
    axes.set_xlabel("times as fast as the fastest peer (named), forward and backward, float32")
    axes.set_title(file.machine, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_GREY)
    figure.savefig(path)
    return path


def _lengths(file: Measured, path: Path) -> Path:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    found = curves(file)
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    time, memory = figure.subplots(1, 2)
    palette = colormaps["tab10"]
    for index, (op, passes) in enumerate(sorted(found.items())):
        color = palette(index)
        for name, style in ((FORWARD, "-"), (STREAM, "--")):
            curve = sorted(passes.get(name, {}).items())
            if not curve:
                continue
            steps = [T for T, _ in curve]
            label = op if name == FORWARD else None
            per_step = [1e3 * row["median_ms"] / T for T, row in curve]
            if name == FORWARD:
                time.plot(steps, per_step, style, color=color, label=label, marker="o", markersize=3)
            memory.plot(
                steps, [row["peak_mb"] for _, row in curve], style, color=color, marker="o", markersize=3
            )
    for axes, label in ((time, "µs a step, forward"), (memory, "peak MB: whole (—), streamed (- -)")):
        axes.set(yscale="log", xlabel="T", ylabel=label)
        axes.set_xscale("log", base=2)
        _plain_ticks(axes.yaxis, *axes.get_ylim())
        axes.minorticks_off()
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_GREY)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    figure.suptitle(file.machine, fontsize=10)
    figure.savefig(path)
    return path


def _plain_ticks(axis: "Axis", least: float, most: float, unit: str = "") -> None:
    # 0.5, 1, 2, 5, 10 on a logarithmic axis, where matplotlib writes powers of ten.
    ticks = [
        step * 10.0**power
        for power in range(-6, 7)
        for step in (1, 2, 5)
        if least <= step * 10.0**power <= most
    ]
    axis.set_ticks(ticks, [f"{tick:g}{unit}" for tick in ticks])
