"""The report of an ablation, in Markdown, and its pictures."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..markdown import count, spread, table
from .plan import FACTORS

# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def as_markdown(results: dict[str, Any]) -> str:
    """One row a combination: its score, and how far it is from the dataset's first one."""
    cells = results["cells"]
    varied = varied_factors(cells)
    rows, first = [], cells[0]
    for cell in cells:
        if cell["dataset"] != first["dataset"]:
            first = cell
        apart = [own - its for own, its in zip(cell["content"], first["content"], strict=True)]
        seconds = [value for value in cell["seconds"] if value is not None]
        rows.append(
            [cell[factor] for factor in varied]
            + [spread(cell["content"])]
            + ["–" if cell is first else _signed(apart)]
            + [count(statistics.fmean(len(losses) for losses in cell["losses"]))]
            + [count(statistics.fmean(seconds)) if seconds else "–"]
        )
    fixed = ", ".join(f"{factor} {cells[0][factor]}" for factor in FACTORS if factor not in varied)
    sections = [
        f"# Ablation {results['name']}",
        f"Field model, size {results['size']}, {_length(results)} of {results['batch_size']} × "
        f"{results['seq_len']} tokens, {results['seeds']} seeds; {results['device']}, torch "
        f"{results['torch_version']}.{f' Everywhere: {fixed}.' if fixed else ''}",
        "Cross-entropy of the full validation split, learning off, in nats a token: mean ± standard "
        "deviation over the seeds. The difference is to the dataset's first row, seed by seed. Seconds are "
        "of the processor, for training and validation, of runs that were not interrupted.",
        table([*varied, "nats a token", "difference", "steps", "seconds"], rows),
        "![scores](scores.png)",
        "![training](training.png)",
    ]
    return "\n\n".join(sections) + "\n"


def _length(results: dict[str, Any]) -> str:
    if results["minutes"]:
        return f"{60 * results['minutes']:g} seconds of learning in steps"
    return f"{results['steps']} steps"


def varied_factors(cells: list[dict[str, Any]]) -> list[str]:
    """The factors of which there is more than one value, or the embedding if there is none."""
    varied = [factor for factor in FACTORS if len({cell[factor] for cell in cells}) > 1]
    return varied or ["embedding"]


def draw_scores(path: Path, results: dict[str, Any]) -> None:
    """Every seed's score and the mean of each combination, a panel a dataset."""
    rows = len(results["cells"]) / len(_datasets(results))
    figure, panels = _panels(results, 1.4 + 0.35 * rows)
    for axes, cells in panels:
        for place, cell in enumerate(cells):
            content = cell["content"]
            axes.plot(content, [place] * len(content), "o", color=_COLOURS[0], alpha=0.4)
            mean = dict(color=_COLOURS[1], markersize=16, markeredgewidth=2)
            axes.plot(statistics.fmean(content), place, "|", **mean)
        axes.axvline(statistics.fmean(cells[0]["content"]), color="#555555", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(cells)), [_label(cell, results) for cell in cells])
        axes.invert_yaxis()
        axes.margins(y=0.15)
        axes.set_xlabel("nats a token (dot: a seed, bar: mean)")
    figure.savefig(path)


def draw_training(path: Path, results: dict[str, Any]) -> None:
    """The loss of what is not learnt yet over the steps, less the first combination's; means of the seeds.

    A panel a dataset; the loss itself where there is only one combination.
    """
    figure, panels = _panels(results, 4)
    for axes, cells in panels:
        for place, cell in enumerate(cells):
            losses = _mean_losses(cell)
            if len(cells) > 1:
                first = _mean_losses(cells[0])
                losses = losses[: len(first)] - first[: len(losses)]
            colour, style = _COLOURS[place % len(_COLOURS)], "-" if place < len(_COLOURS) else "--"
            axes.plot(np.arange(1, len(losses) + 1), losses, style, color=colour, label=_label(cell, results))
        less = ",\nless the first row's" if len(cells) > 1 else ""
        axes.set(xlabel="step", ylabel=f"nats a token before it is learnt{less}")
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path)


def _mean_losses(cell: dict[str, Any]) -> np.ndarray:
    steps = min(len(losses) for losses in cell["losses"])
    return np.mean([[loss for _, loss in losses[:steps]] for losses in cell["losses"]], axis=0)


def _panels(results: dict[str, Any], height: float) -> tuple[Any, Iterator[tuple[Any, list[dict[str, Any]]]]]:
    """A figure, and for each dataset its axes and its combinations."""
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    datasets = _datasets(results)
    figure = Figure(figsize=(5 * max(len(datasets), 1.4), height), dpi=120, layout="constrained")
    all_axes = figure.subplots(1, len(datasets), squeeze=False)[0]
    for dataset, axes in zip(datasets, all_axes, strict=True):
        axes.set_title(Path(dataset).name)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    cells = ([cell for cell in results["cells"] if cell["dataset"] == name] for name in datasets)
    return figure, zip(all_axes, cells, strict=True)


def _datasets(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(cell["dataset"] for cell in results["cells"]))


def _label(cell: dict[str, Any], results: dict[str, Any]) -> str:
    varied = [factor for factor in varied_factors(results["cells"]) if factor != "dataset"]
    names = [
        f"{factor} {cell[factor]}" if factor == "without" or cell[factor] == "none" else cell[factor]
        for factor in varied
    ]
    return ", ".join(names) or cell["embedding"]


def _signed(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):+.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.4f}"
