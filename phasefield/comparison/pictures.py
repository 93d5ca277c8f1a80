"""The pictures of a comparison."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vP*"


def draw_validation(path: Path, results: dict[str, Any]) -> None:
    """Validation content over training tokens: the mean of the seeds, and their range; a panel a measure."""
    from matplotlib.figure import Figure  # its own canvas: no pyplot, no display, no global state

    measures = list(dict.fromkeys(model["measure"] for model in results["models"].values()))
    figure = Figure(figsize=(4.5 * max(len(measures), 1.5), 4.2), dpi=120, layout="constrained")
    panels = dict(zip(measures, figure.subplots(1, len(measures), squeeze=False)[0], strict=True))
    tokens_per_step = results["batch_size"] * results["seq_len"]
    for name, model, colour, marker in _styled(results):
        axes = panels[model["measure"]]
        tokens = [scores["step"] * tokens_per_step for scores in model["validations"][0]]
        content = np.array([[scores["content"] for scores in seed] for seed in model["validations"]])
        style = dict(marker=marker, color=colour, linewidth=1.5, markersize=4)
        axes.plot(tokens, content.mean(0), label=name, **style)
        axes.fill_between(tokens, content.min(0), content.max(0), color=colour, alpha=0.15, linewidth=0)
    for measure, axes in panels.items():
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="training tokens", ylabel="nats per token", title=measure)
        _finish(axes)
        axes.legend(frameon=False, fontsize="small")
    figure.suptitle(f"{results['corpus']}: validation, mean and range of {results['seeds']} seeds")
    figure.savefig(path)


def draw_decoding(path: Path, results: dict[str, Any]) -> None:
    """Tokens a second and memory over the length of the prompt, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for name, model, colour, marker in _styled(results):
        lengths = [int(length) for length in model["decoding"]]
        cells = model["decoding"].values()
        style = dict(marker=marker, color=colour, linewidth=1.5, markersize=4)
        speed.plot(lengths, [cell["tokens_per_second"] for cell in cells], label=name, **style)
        memory.plot(lengths, [cell["peak_bytes"] / 2**20 for cell in cells], **style)
        if all(cell["state_bytes"] for cell in cells):
            memory.plot(
                lengths, [cell["state_bytes"] / 2**20 for cell in cells], linestyle=":", **style, alpha=0.6
            )
    speed.set(title="decoding", ylabel="tokens per second")
    memory.set(title="memory: solid at most, dotted kept of the text", ylabel="MiB beside the weights")
    for axes in (speed, memory):
        axes.set(xscale="log", yscale="log", xlabel="tokens of the prompt")
        _whole_decades(axes)
        _finish(axes)
    ticks = sorted({int(length) for model in results["models"].values() for length in model["decoding"]})
    for axes in (speed, memory):
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.savefig(path)


def _styled(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str, str]]:
    for number, (name, model) in enumerate(results["models"].items()):
        yield name, model, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _whole_decades(axes: Any) -> None:
    """Let a logarithmic axis end at powers of ten, so that a small difference looks small."""
    values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
    if values:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        axes.set_ylim(10**low, 10 ** max(high, low + 1))


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
