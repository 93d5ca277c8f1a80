"""The pictures of a field: one of four panels, and an animation of its fall."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .field import Observation

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#555555"
_LABELS = 60
"""Tokens up to which each is written beside its point."""
_TRAIL = 8


def draw_field(path: Path, seen: "Observation") -> None:
    """Paths on the manifold, coherence over time, gravity between positions, and the crystal's spectrum."""
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    figure = Figure(figsize=(12, 9.5), dpi=110, layout="constrained")
    (manifold, coherence), (gravity, spectrum) = figure.subplots(2, 2)
    _draw_manifold(manifold, seen)
    _draw_coherence(coherence, seen)
    _draw_gravity(figure, gravity, seen)
    _draw_spectrum(spectrum, seen)
    title = "".join(seen.symbols)
    known = "" if seen.learnt else " (a field that has learnt nothing)"
    figure.suptitle(f"{_plain(title if len(title) <= 60 else title[:59] + '…')}{known}")
    figure.savefig(path)


def animate_field(path: Path, seen: "Observation") -> None:
    """The particles fall towards those before them: as a GIF."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.figure import Figure

    paths = seen.paths.numpy()
    figure = Figure(figsize=(5.5, 5.5), dpi=80)
    axes = figure.add_subplot()
    sizes = _sizes(seen)

    def frame(number: int) -> list[Any]:
        axes.clear()
        _limit(axes, paths)
        trail = paths[max(0, number - _TRAIL) : number + 1]
        axes.plot(trail[..., 0], trail[..., 1], color=_GREY, alpha=0.3, linewidth=0.8)
        _points(axes, paths[number], sizes, seen)
        axes.set_title(f"moment {number}: energy {seen.energy[number]:.1f}", fontsize="medium")
        return []

    FuncAnimation(figure, frame, frames=len(paths)).save(path, writer=PillowWriter(fps=12))


def _draw_manifold(axes: Any, seen: "Observation") -> None:
    paths = seen.paths.numpy()
    start = paths[0]
    axes.plot(start[:, 0], start[:, 1], color=_BLUE, alpha=0.2, linewidth=0.8, label="from token to token")
    axes.plot(paths[..., 0], paths[..., 1], color=_ORANGE, alpha=0.6, linewidth=1)
    axes.plot([], [], color=_ORANGE, label="falling")
    _limit(axes, paths)
    _points(axes, start, _sizes(seen), seen)
    axes.set_title("tokens on the manifold, and how they fall (size: mass)")
    axes.legend(frameon=False, fontsize="small")


def _draw_coherence(axes: Any, seen: "Observation") -> None:
    at = np.arange(len(seen.symbols))
    axes.plot(at, seen.coherence.numpy(), "o-", color=_BLUE, linewidth=1.4, markersize=3, label="coherence")
    axes.axhline(seen.threshold, color=_BLUE, linestyle=":", linewidth=1)
    where = "91 % of what was learnt is below" if seen.learnt else "0.91"
    axes.text(len(at) - 1, 1.04, f"dotted: {where}", color=_BLUE, fontsize="small", va="top", ha="right")
    axes.set(ylim=(0, 1.05), ylabel="coherence of the last five states")
    surprise = axes.twinx()
    surprise.plot(at[1:], seen.surprise.numpy(), color=_ORANGE, linewidth=1, label="surprise")
    surprise.set_ylim(bottom=0)
    surprise.set_ylabel("surprise at the token, nats", color=_ORANGE)
    _token_ticks(axes.xaxis, seen)
    axes.set_title("coherence and surprise over time")
    axes.grid(alpha=0.2)
    for each in (axes, surprise):
        each.spines["top"].set_visible(False)


def _draw_gravity(figure: Any, axes: Any, seen: "Observation") -> None:
    from matplotlib.colors import PowerNorm

    felt = seen.gravity.numpy()
    shown = np.ma.masked_where(np.triu(np.ones_like(felt), 1) > 0, felt)
    largest = max(float(felt.max()), 1e-6)
    image = axes.imshow(shown, cmap="magma", norm=PowerNorm(0.3, 0, largest), interpolation="nearest")
    figure.colorbar(image, ax=axes, label="pull beyond the background")
    for axis in (axes.xaxis, axes.yaxis):
        _token_ticks(axis, seen)
    axes.set(xlabel="token that pulls", ylabel="position that feels it", title="gravity")


def _draw_spectrum(axes: Any, seen: "Observation") -> None:
    values = seen.spectrum.numpy()
    values = values[values > 1e-6]  # rounding has no spectrum
    axes.semilogy(np.arange(1, len(values) + 1), values, "o-", color=_BLUE, markersize=3)
    axes.set(
        xlabel="singular value",
        ylabel="of p(next | last token)",
        title="spectrum of the crystal",
        ylim=(1e-6, 10),
    )
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _points(axes: Any, points: np.ndarray, sizes: np.ndarray, seen: "Observation") -> None:
    time = np.linspace(0, 1, len(points))
    axes.scatter(points[:, 0], points[:, 1], s=sizes, c=time, cmap="viridis", zorder=3)
    if len(points) <= _LABELS:
        for symbol, point in zip(seen.symbols, points, strict=True):
            axes.annotate(_plain(symbol), point, (4, 4), textcoords="offset points", fontsize=9)


def _limit(axes: Any, paths: np.ndarray) -> None:
    reach = 1.1 * np.abs(paths).max()
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")


def _sizes(seen: "Observation") -> np.ndarray:
    mass = seen.mass.numpy()
    return 15 + 60 * mass / max(mass.max(), 1e-6)


def _token_ticks(axis: Any, seen: "Observation") -> None:
    if len(seen.symbols) <= _LABELS:
        axis.set_ticks(np.arange(len(seen.symbols)), [_plain(symbol) for symbol in seen.symbols])
        axis.set_tick_params(labelsize=7)


def _plain(text: str) -> str:
    """Text that Matplotlib shows as it is: no formulas, spaces and line breaks as signs."""
    return text.replace("$", r"\$").replace(" ", "␣").replace("\n", "↵")
