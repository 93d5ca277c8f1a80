"""What a shard of memory learns of a second text, and what that does to the first, beside fine-tuning.

``python -m benchmarks.incremental A.txt B.txt`` trains a phase-field model on A; teaches it B once in a
shard, its weights frozen, and once by fine-tuning all weights for as many steps; and prints the cross-entropy
of the last tenth of both texts, in nats a character. ``--store FILE`` keeps the table as JSON.
"""

import argparse
import copy
import json
from pathlib import Path

import torch

from phasefield.data import CharTokenizer, RandomWindows
from phasefield.models.phase_field import SIZES, PhaseField, PhaseFieldConfig
from phasefield.training.shards import learn_shard, slot_memories

from .brief_training import content, fit, halves, run_config


def measure(first: str, second: str, *, steps: int, later_steps: int, slots: int, lr: float) -> dict:
    """Cross-entropies ``{state of the model: {"A": nats, "B": nats}}`` of texts in two files."""
    texts = {"A": halves(first), "B": halves(second)}
    tokenizer = CharTokenizer.from_text("".join(half for text in texts.values() for half in text))
    train, held_out = (
        {name: tokenizer.encode(text[half]) for name, text in texts.items()} for half in (0, 1)
    )
    run = run_config("phase_field", steps=steps, seq_len=128, lr=lr)
    batches = {name: RandomWindows(ids, run.batch_size, run.seq_len, 0) for name, ids in train.items()}
    torch.manual_seed(0)
    model = PhaseField(PhaseFieldConfig(tokenizer.vocab_size, **SIZES["tiny"]))
    fit(model, batches["A"].batch, run)

    def scores(model: PhaseField) -> dict[str, float]:
        return {name: round(content(model, ids), 4) for name, ids in held_out.items()}

    table = {"trained on A": scores(model)}
    tuned = copy.deepcopy(model)
    fit(tuned, batches["B"].batch, run_config("phase_field", steps=later_steps, seq_len=128, lr=lr / 4))
    table["fine-tuned on B"] = scores(tuned)
    memory = slot_memories(model)["slots"]
    learn_shard(model, memory, "b", batches["B"], slots=slots, steps=later_steps)
    table["shard of B attached"] = scores(model)
    memory.detach_shard("b")
    table["shard of B detached"] = scores(model)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", metavar="A.txt")
    parser.add_argument("second", metavar="B.txt")
    parser.add_argument("--steps", type=int, default=400, help="on A")
    parser.add_argument("--later-steps", type=int, default=200, help="on B, of the shard and of fine-tuning")
    parser.add_argument("--slots", type=int, default=512, help="of the shard")
    parser.add_argument("--lr", type=float, default=6e-3, help="on A; fine-tuning takes a quarter of it")
    parser.add_argument("--store", metavar="FILE", help="keep the table as JSON")
    flags = vars(parser.parse_args())
    store = flags.pop("store")
    table = measure(**flags)
    print(f"{'nats a character':24}{'A':>8}{'B':>8}")
    for state, scores in table.items():
        print(f"{state:24}{scores['A']:8.4f}{scores['B']:8.4f}")
    if store:
        names = {
            key: Path(value).name if key in ("first", "second") else value for key, value in flags.items()
        }
        Path(store).write_text(json.dumps({"flags": names, "nats": table}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
