"""The loss curve of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_BLUE, _ORANGE, _GREY = "#3b6ea5", "#d1660f", "#555555"


def draw_loss_curve(
    path: Path,
    losses: Sequence[tuple[int, float]],
    validations: Sequence[tuple[int, float]],
    title: str,
) -> None:
    """Draw training loss (raw and smoothed) and validation points over steps, as a PNG.

    Args:
        path: the file, replaced if it exists.
        losses: ``(step, mean training total since the point before)``.
        validations: ``(step, validation total)``.
        title: of the picture.
    """
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if losses:
        steps, values = np.array(losses).T
        axes.plot(steps, values, color=_BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=_BLUE, linewidth=1.6, label="training")
    if validations:
        steps, values = np.array(validations).T
        axes.plot(steps, values, "o-", color=_ORANGE, linewidth=1.2, markersize=4, label="validation")
        axes.annotate(
            f"{values[-1]:.4f}",
            (steps[-1], values[-1]),
            (0, 8),
            textcoords="offset points",
            ha="right",
            color=_ORANGE,
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_GREY)
    if losses or validations:
        axes.legend(frameon=False)
    figure.savefig(path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over a twentieth of the points, shorter at the ends."""
    reach = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
