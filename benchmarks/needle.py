"""Needles in a haystack: recalling what was said thousands of tokens ago, with and without a matrix memory.

``python -m benchmarks.needle`` trains a small phase-field model on short texts: some pairs of a key and a
value, noise, then each key again, after which its value is to come. It is tested on far longer ones, read in
pieces. Prints the share of values that are right, by length of the noise; chance is 1 of 16. ``--store FILE``
keeps it.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from phasefield.models.phase_field import PhaseField, PhaseFieldConfig
from phasefield.training.config import learning_rate
from phasefield.training.optimizer import make_optimizer, set_learning_rate

from .brief_training import run_config

PAIRS, KEYS, VALUES, NOISE = 4, 16, 16, 16
TRAINED_UP_TO = 64
LENGTHS = (64, 1024, 4096, 16_384)
MEMORIES = {"backbone alone": "none", "with matrix memory": {"matrix": {"type": "matrix", "heads": 1}}}
_PIECE = 1024


def texts(batch: int, noise: int, generator: torch.Generator) -> Tensor:
    """``[batch, 4 PAIRS + noise]``: pairs, noise of so many tokens, the pairs again in another order."""

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    keys = torch.rand(batch, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    pairs = torch.stack([keys, KEYS + draw(VALUES, batch, PAIRS)], dim=-1)
    order = torch.rand(batch, PAIRS, generator=generator).argsort(1)
    again = pairs.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    between = KEYS + VALUES + draw(NOISE, batch, noise)
    return torch.cat([pairs.flatten(1), between, again.flatten(1)], dim=1)


def recalled(model: PhaseField, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, PAIRS, V]`` at the keys that come again, and the values ``[B, PAIRS]`` that follow."""
    state = None
    body, end = tokens[:, : -2 * PAIRS], tokens[:, -2 * PAIRS :]
    for piece in body.split(_PIECE, dim=1):
        _, _, state = model.stream(piece, state)
    logits, _ = model(end, state)
    return logits[:, ::2], end[:, 1::2]


def train(model: PhaseField, steps: int, batch: int, lr: float) -> None:
    """On texts of 0 to :data:`TRAINED_UP_TO` tokens of noise, at first of less; only values count."""
    run = run_config("phase_field", steps=steps, lr=lr)
    optimizer, generator = make_optimizer(model.train(), run), torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        set_learning_rate(optimizer, learning_rate(run, step))
        longest = int(TRAINED_UP_TO * min(1, 1.5 * step / steps))
        noise = int(torch.randint(longest + 1, (), generator=generator))
        logits, values = recalled(model, texts(batch, noise, generator))
        F.cross_entropy(logits.flatten(0, 1), values.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.inference_mode()
def accuracy(model: PhaseField, noise: int, batch: int = 32) -> float:
    """The share of values that are the likeliest, of texts that training has not seen."""
    logits, values = recalled(model, texts(batch, noise, torch.Generator().manual_seed(1)))
    return float((logits.argmax(-1) == values).float().mean())


def measure(steps: int, batch: int, lr: float, dim: int, num_layers: int, lengths: list[int]) -> dict:
    """Accuracies ``{model: {length: share}}``."""
    table = {}
    for name, memories in MEMORIES.items():
        torch.manual_seed(0)
        banks = {"semantic": {"type": "semantic", "concepts": 64}}
        model = PhaseField(
            PhaseFieldConfig(KEYS + VALUES + NOISE, dim, num_layers, banks=banks, memories=memories)
        )
        train(model, steps, batch, lr)
        table[name] = {length: accuracy(model, length) for length in lengths}
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="T")
    parser.add_argument("--store", metavar="FILE", help="keep flags and accuracies as JSON")
    flags = vars(parser.parse_args())
    store = flags.pop("store")
    table = measure(**flags)
    print("".join([f"{'noise tokens':20}", *(f"{length:9,}" for length in flags["lengths"])]))
    for name, shares in table.items():
        print("".join([f"{name:20}", *(f"{share:9.1%}" for share in shares.values())]))
    if store:
        Path(store).write_text(json.dumps({"flags": flags, "accuracy": table}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
