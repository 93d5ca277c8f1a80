"""The report of a comparison, in Markdown."""

from collections.abc import Callable
from typing import Any

from ..markdown import count, mebibytes, spread, table

_MEASURES = {
    "cross-entropy": "cross-entropy",
    "masked cross-entropy": "cross-entropy of masked tokens only",
    "bound": "upper bound of the cross-entropy",
}


def as_markdown(results: dict[str, Any]) -> str:
    """Tables of what was learned, written and paid, and samples side by side."""
    sections = [
        f"# Comparison on {results['corpus']}",
        _conditions(results),
        "## What was learned",
        "On the full validation split after the last step, by the average of the weights; mean ± standard "
        "deviation over the seeds. Numbers of different measures do not compare.",
        _learned(results),
        "![validation over training tokens](validation.png)",
        "## What is written",
        "Continuations of the same pieces of the validation split, at temperature 1. Distinct-n: different "
        "ones among all n-grams of words. Copied: n-grams of 4 words that the training text has. Judge: nats "
        "a character of an n-gram model of characters of the training text (order 6, Witten-Bell).",
        _written(results),
        "## What decoding costs",
        "Tokens a second of one sequence behind prompts of so many tokens: a causal model's step, 64 tokens "
        f"drafted together otherwise. {_seen(results)}",
        _by_length(results, lambda cell: count(cell["tokens_per_second"])),
        "Memory in MiB beside the weights, reading the prompt and writing; in parentheses what is kept of "
        "the text between two tokens.",
        _by_length(results, _memory),
        "![decoding over the length of the prompt](decoding.png)",
        "## Samples",
        *_samples(results),
    ]
    return "\n\n".join(sections) + "\n"


def _conditions(results: dict[str, Any]) -> str:
    batch, sequence = results["batch_size"], results["seq_len"]
    return (
        f"Tokenizer {results['tokenizer']}, batches of {batch} × {sequence} tokens, the same for all models; "
        f"{results['seeds']} seeds; {results['device']}, torch {results['torch_version']}. Widths are "
        "changed so that all models have about the same number of parameters, embeddings included. "
        "Operations are an estimate: 6 a parameter and token, unless the model counts its own."
    )


def _seen(results: dict[str, Any]) -> str:
    blocks = {name: model["model_flags"].get("block_size") for name, model in results["models"].items()}
    bounded = [f"{name} {block:,}" for name, block in blocks.items() if block is not None]
    if not bounded:
        return "All models see the whole prompt."
    return f"Of a longer prompt these see their last block at most, in tokens: {', '.join(bounded)}."


def _learned(results: dict[str, Any]) -> str:
    tokens_per_step = results["batch_size"] * results["seq_len"]

    def row(name: str, model: dict[str, Any]) -> list[str]:
        last = [validations[-1] for validations in model["validations"]]
        bits = [scores["bits_per_character"] for scores in last if "bits_per_character" in scores]
        at_most = "≤ " if model["measure"] == "bound" else ""
        tokens = model["steps"] * tokens_per_step
        return [
            name,
            f"{model['parameters']:,}",
            f"{tokens:,}",
            f"{model['flops_per_token'] * tokens:.2e}",
            _MEASURES[model["measure"]],
            spread([scores["content"] for scores in last]),
            at_most + spread(bits) if bits else "–",
            count(model["training"]["tokens_per_second"]),
            mebibytes(model["training"]["peak_bytes"]),
        ]

    head = ["model", "parameters", "tokens", "operations", "measure", "nats a token", "bits a character"]
    head += ["training tokens/s", "peak memory, MiB"]
    return table(head, [row(name, model) for name, model in results["models"].items()])


def _written(results: dict[str, Any]) -> str:
    scores = ("distinct-1", "distinct-2", "distinct-3", "copied", "judge")
    texts = {name: model["texts"] for name, model in results["models"].items()}
    texts["the validation text itself"] = [results["validation_text"]]
    rows = [
        [name, *(spread([text[score] for text in of_seeds], 3) for score in scores)]
        for name, of_seeds in texts.items()
    ]
    return table(["model", *scores], rows)


def _by_length(results: dict[str, Any], show: Callable[[dict[str, Any]], str]) -> str:
    cells = {name: model["decoding"] for name, model in results["models"].items()}
    lengths = list(next(iter(cells.values())))
    rows = [[name, *(show(of_length[length]) for length in lengths)] for name, of_length in cells.items()]
    return table(["model", *(f"{int(length):,}" for length in lengths)], rows)


def _memory(cell: dict[str, Any]) -> str:
    kept = cell["state_bytes"]
    return mebibytes(cell["peak_bytes"]) + ("" if kept is None else f" ({mebibytes(kept)})")


def _samples(results: dict[str, Any]) -> list[str]:
    sections = []
    written = {name: model["texts"][0]["samples"] for name, model in results["models"].items()}
    for number, sample in enumerate(results["validation_text"]["samples"]):
        rows = [[name, _cell(samples[number]["text"])] for name, samples in written.items()]
        rows.append(["the text itself", _cell(sample["text"])])
        sections += [f"After {_cell(sample['prompt'])}", table(["model", "goes on"], rows)]
    return sections


def _cell(text: str) -> str:
    """Text as code on one line of a table."""
    ticks = "``" if "`" in text else "`"
    return f"{ticks} {text.replace('|', '¦').replace(chr(10), '↵')} {ticks}"
