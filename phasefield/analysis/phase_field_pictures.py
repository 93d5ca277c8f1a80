"""The picture of a phase-field model that reads: six panels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .phase_field import Observation

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#555555"
_LABELS = 60
"""Tokens up to which each is written under its place."""


def draw_phase_field(path: Path, seen: "Observation") -> None:
    """What is held of each position, lifetimes, portraits; retrieval, needles, and what parts are worth."""
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    figure = Figure(figsize=(16, 9.5), dpi=100, layout="constrained")
    (held, lifetimes, portraits), (retrieval, needles, parts) = figure.subplots(2, 3)
    _draw_held(figure, held, seen)
    _draw_lifetimes(lifetimes, seen)
    _draw_portraits(portraits, seen)
    _draw_retrieval(retrieval, seen)
    _draw_needles(needles, seen)
    _draw_parts(parts, seen)
    title = _plain("".join(seen.symbols))
    figure.suptitle(f"{title if len(title) <= 80 else title[:79] + '…'}  ({seen.nats:.3f} nats a token)")
    figure.savefig(path)


def _draw_held(figure: Any, axes: Any, seen: "Observation") -> None:
    rows = [(f"layer {number + 1}", share.numpy()) for number, share in enumerate(seen.held)]
    rows += [(name, values.numpy()) for name, values in seen.remembered.items()]
    axes.set_title("what is held of each position at the end\n(a row's largest is 1)", fontsize="medium")
    if not rows:
        _nothing(axes)
        return
    shares = np.stack([values / max(values.max(), 1e-30) for _, values in rows])
    image = axes.imshow(shares, aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    if len(seen.symbols) <= _LABELS:
        axes.set_xticks(range(len(seen.symbols)), [_plain(symbol) for symbol in seen.symbols], fontsize=7)
    else:
        axes.set_xlabel("position")


def _draw_lifetimes(axes: Any, seen: "Observation") -> None:
    axes.set_title("lifetimes of the backbone's states", fontsize="medium")
    if not seen.lifetimes:
        _nothing(axes)
        return
    for number, lifetimes in enumerate(seen.lifetimes):
        ordered = np.sort(lifetimes.numpy())
        shade = number / max(len(seen.lifetimes) - 1, 1)
        axes.plot(
            np.linspace(0, 1, len(ordered)),
            ordered,
            color=_BLUE,
            alpha=1 - 0.7 * shade,
            label=f"layer {number + 1}",
        )
    axes.axhline(len(seen.symbols), color=_GREY, linestyle=":", linewidth=1, label="this text")
    axes.set_yscale("log")
    axes.set_xlabel("share of the states")
    axes.set_ylabel("tokens until 1/e is left")
    axes.legend(frameon=False, fontsize="small")


def _draw_portraits(axes: Any, seen: "Observation") -> None:
    axes.set_title(
        "phase portraits of the last layer's states\n(short-lived to long-lived; from dark to light in time)",
        fontsize="medium",
    )
    paths = seen.portraits.numpy()
    if not paths.shape[1]:
        _nothing(axes)
        return
    for number in range(paths.shape[1]):
        path = paths[:, number] / max(np.abs(paths[:, number]).max(), 1e-30)
        column, row = number % 3, number // 3
        x, y = path[:, 0] + 2.4 * column, path[:, 1] - 2.4 * row
        axes.plot(x, y, color=_BLUE, alpha=0.5, linewidth=0.8)
        axes.scatter(x, y, c=np.arange(len(x)), cmap="viridis", s=8, zorder=3)
        axes.plot(2.4 * column, -2.4 * row, "+", color=_GREY, markersize=6)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_retrieval(axes: Any, seen: "Observation") -> None:
    axes.set_title(
        "matrix memory: coherence of what a key reads\nwith what was written by it", fontsize="medium"
    )
    if not seen.retrieval:
        _nothing(axes)
        return
    for name, values in seen.retrieval.items():
        axes.plot(seen.distances, values, "o-", markersize=4, label=name)
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("tokens ago")
    axes.legend(frameon=False, fontsize="small")


def _draw_needles(axes: Any, seen: "Observation") -> None:
    axes.set_title("needles said at the beginning of a text", fontsize="medium")
    lengths = [needle.length for needle in seen.needles]
    axes.plot(lengths, [needle.accuracy for needle in seen.needles], "o-", color=_BLUE)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("length of the text")
    axes.set_ylabel("accuracy", color=_BLUE)
    gains = axes.twinx()
    gains.plot(lengths, [needle.gain for needle in seen.needles], "s--", color=_ORANGE)
    low, high = gains.get_ylim()
    gains.set_ylim(min(low, -0.01), max(high, 0.01))  # rounding is not to look like a gain
    gains.axhline(0, color=_ORANGE, linestyle=":", linewidth=1)
    gains.set_ylabel("gain, nats a token", color=_ORANGE)


def _draw_parts(axes: Any, seen: "Observation") -> None:
    axes.set_title(
        "nats a token that a part is worth\n(and a bank's share of the coupled energy)", fontsize="medium"
    )
    names = list(seen.without)
    axes.barh(
        names, list(seen.without.values()), color=[_GREEN if n in _banks(seen) else _BLUE for n in names]
    )
    for place, name in enumerate(names):
        share = seen.energy.get(name.removeprefix("banks.")) if name in _banks(seen) else None
        if share is not None:
            axes.annotate(f" {share:.0%}", (max(seen.without[name], 0), place), va="center")
    axes.axvline(0, color=_GREY, linewidth=1)
    axes.margins(x=0.15)
    axes.invert_yaxis()


def _banks(seen: "Observation") -> set[str]:
    return {f"banks.{name}" for name in seen.energy}


def _nothing(axes: Any) -> None:
    axes.text(0.5, 0.5, "this model has none", ha="center", va="center", color=_GREY)
    axes.set_axis_off()


def _plain(text: str) -> str:
    """A text as matplotlib can write it: no formulas, white space that shows."""
    return text.replace("$", r"\$").replace("\n", "⏎").replace("\t", "⇥")
