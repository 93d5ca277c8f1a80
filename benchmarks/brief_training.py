"""What experiments with models share: a short training without checkpoints, a text's cross-entropy."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from phasefield.models import MODELS
from phasefield.training import TrainConfig, evaluate
from phasefield.training.config import learning_rate
from phasefield.training.optimizer import make_optimizer, set_learning_rate

VALIDATION_TOKENS = 32_768
"""Of the end of a text, at most."""


def run_config(model: str, **changes: object) -> TrainConfig:
    """A model's own training flags, with changes, and a warm-up over a quarter of the steps at most."""
    flags = {**MODELS[model].training, **changes}
    warmup = min(flags.get("warmup_steps", 0), flags["steps"] // 4)
    return TrainConfig(**{**flags, "cosine": True, "warmup_steps": warmup})


def fit(model: nn.Module, batch: Callable[[int], tuple[Tensor, Tensor]], run: TrainConfig) -> list[float]:
    """Train; the content of each step's loss.

    Args:
        model: with ``loss(tokens, targets)``.
        batch: inputs and targets by index.
        run: of which steps, learning rate and its schedule, decay, betas and clipping count.
    """
    optimizer, contents = make_optimizer(model.train(), run), []
    for step in range(1, run.steps + 1):
        set_learning_rate(optimizer, learning_rate(run, step))
        loss = model.loss(*batch(step - 1))
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        contents.append(loss.terms["content"].item())
    model.eval()
    return contents


def content(model: nn.Module, ids: Tensor, seq_len: int = 256) -> float:
    """Nats a token of a text, in windows that each start anew."""
    return evaluate(model, ids[: VALIDATION_TOKENS + 1], 16, seq_len).terms["content"]


def halves(path: str) -> tuple[str, str]:
    """A text file's first nine tenths and its last, as ``train`` splits it."""
    text = Path(path).read_text(encoding="utf-8")
    return text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
