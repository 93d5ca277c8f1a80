"""What the phase-field model and its parts are worth: cross-entropy at equal parameters and tokens.

``python -m benchmarks.phase_field_quality TRAIN.txt VALID.txt --store FILE.json`` trains each row for the
same steps on the same batches of characters and prints nats and perplexity a character of the validation
text's first 32,768. Rows that FILE.json has already are not trained again; ``--rows`` names some. Models of
other kinds are given about as many parameters as the phase-field model by their width.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from phasefield.comparison.matching import build, match
from phasefield.data import CharTokenizer, RandomWindows

from .brief_training import VALIDATION_TOKENS, content, fit, run_config

_SLOTS, _MATRIX = {"type": "slots", "slots": 512}, {"type": "matrix"}
_EPISODIC = {"type": "episodic"}
_ORIGINS = {"dim": 64, "banks": "semantic", "memories": {"slots": _SLOTS, "matrix": _MATRIX}}
_FEW_CONCEPTS = {"semantic": {"type": "semantic", "concepts": 64}}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba", {}),
    "phase_field": ("phase_field", {}),
    "variant original": ("phase_field", {**_ORIGINS, "variant": "original"}),
    "no slots, 80 channels": (
        "phase_field",
        {"dim": 80, "banks": _FEW_CONCEPTS, "memories": {"matrix": _MATRIX}},
    ),
    "backbone linoss": ("phase_field", {"backbone": "linoss"}),
    "backbone mamba": ("phase_field", {"backbone": "mamba"}),
    "origin's size": ("phase_field", _ORIGINS),
    "banks context": ("phase_field", {**_ORIGINS, "banks": "context"}),
    "banks semantic,context": ("phase_field", {**_ORIGINS, "banks": "semantic,context"}),
    "no memory": ("phase_field", {**_ORIGINS, "memories": {}}),
    "slots alone": ("phase_field", {**_ORIGINS, "memories": {"slots": _SLOTS}}),
    "matrix alone": ("phase_field", {**_ORIGINS, "memories": {"matrix": _MATRIX}}),
    "with episodic": (
        "phase_field",
        {**_ORIGINS, "memories": {"slots": _SLOTS, "matrix": _MATRIX, "episodic": _EPISODIC}},
    ),
}
"""The model and the fields of its tiny size that are changed, by row.

Those behind "origin's size", and the original variant, start from the origin's tiny: 64 channels, 512 slots
and as many concepts.
"""
TRAINING_CHARACTERS = 4_000_000


def measure(row: str, train: str, valid: str, steps: int, lr: float) -> dict[str, float]:
    """Train a row; its parameters, and nats a character of the validation text."""
    name, changes = ROWS[row]
    tokenizer = CharTokenizer.from_text(train + valid)
    fields = match("phase_field", "tiny", tokenizer.vocab_size, 128, None)
    if name != "phase_field":
        fields = match(name, "tiny", tokenizer.vocab_size, 128, fields.parameters)
    torch.manual_seed(0)
    model = build(name, {**fields.model_flags, **changes}, tokenizer.vocab_size)
    run = run_config(name, steps=steps, lr=lr, batch_size=8, seq_len=128)
    fit(model, RandomWindows(tokenizer.encode(train), run.batch_size, run.seq_len, 0).batch, run)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"parameters": count, "nats": round(content(model, tokenizer.encode(valid)), 4)}


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", metavar="TRAIN.txt")
    parser.add_argument("valid", metavar="VALID.txt")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=6e-3, help="of every row")
    parser.add_argument("--store", metavar="FILE", required=True, help="the table as JSON")
    flags = parser.parse_args()
    train = Path(flags.train).read_text(encoding="utf-8")[:TRAINING_CHARACTERS]
    valid = Path(flags.valid).read_text(encoding="utf-8")[: VALIDATION_TOKENS + 1]
    store = Path(flags.store)
    settings = {"train": Path(flags.train).name, "steps": flags.steps, "lr": flags.lr, "tokens_a_step": 1024}
    known = json.loads(store.read_text("utf-8")) if store.exists() else {"settings": settings, "rows": {}}
    if known["settings"] != settings:
        parser.error(f"--store {store} has rows of {known['settings']}; give another file")
    print(f"{'':24}{'parameters':>12}{'nats':>9}{'perplexity':>12}")
    for row in flags.rows:
        if row not in known["rows"]:
            known["rows"][row] = measure(row, train, valid, flags.steps, flags.lr)
            store.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        result = known["rows"][row]
        print(
            f"{row:24}{result['parameters']:12,}{result['nats']:9.4f}{math.exp(result['nats']):12.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
