"""Models of about the same number of parameters."""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..training.flags import flags_of_size, known_model

CLOSE = 0.02
"""A multiple of 8 this near to the target count is taken; where there is none, of 4, of 2, or any width."""
ALLOWED = 0.1
"""Further than this from the target is refused."""


@dataclass(frozen=True)
class Matched:
    """A model as it is compared.

    Attributes:
        model_flags: the fields of its config, without ``vocab_size``.
        parameters: how many it has.
        flops_per_token: in training.
    """

    model_flags: dict[str, Any]
    parameters: int
    flops_per_token: float


def match(name: str, size: str, vocab_size: int, seq_len: int, target: int | None) -> Matched:
    """A model of a size, its width changed so that it has about ``target`` parameters.

    Only the field that the model's entry names as its width changes: the nearest multiple of 8 if its count
    is within 2 % of the target, otherwise the nearest multiple of 4, of 2, or of 1. Widths that the model
    refuses (not divisible by its heads, say) do not count.

    Args:
        name: of the model.
        size: one of its sizes; a model without sizes starts from its defaults.
        vocab_size: of the tokenizer; the parameters of embedding and head count too.
        seq_len: of training.
        target: None keeps the width.

    Raises:
        UsageError: no width comes within 10 % of the target.
    """
    entry = known_model(name)
    base = flags_of_size(name, size) if entry.sizes else {}
    if target is not None:
        base[entry.width] = _width(name, entry.width, base, vocab_size, target)
    model = build(name, base, vocab_size)
    parameters = count_parameters(model)
    own = getattr(model, "training_flops_per_token", None)
    flops = own(seq_len) if own else 6.0 * parameters
    fields = {key: value for key, value in asdict(model.config).items() if key != "vocab_size"}
    return Matched(fields, parameters, flops)


def count_parameters(model: nn.Module) -> int:
    """The numbers that training changes; tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _width(name: str, field: str, base: dict[str, Any], vocab_size: int, target: int) -> int:
    @cache
    def count(width: int) -> int | None:
        if width < 1:
            return None
        try:
            return count_parameters(build(name, {**base, field: width}, vocab_size))
        except ValueError:
            return None

    def allowed_near(width: float, step: int) -> list[int]:
        middle = round(width / step)
        near = [(middle + offset) * step for offset in range(-8, 9)]
        return [candidate for candidate in near if count(candidate) is not None]

    def off(width: int) -> float:
        return abs(count(width) / target - 1)

    estimate = float(getattr(build(name, base, vocab_size).config, field))
    for _ in range(16):
        nearest = min(allowed_near(estimate, 8), key=lambda width: abs(width - estimate), default=None)
        if nearest is None:
            break
        # Counts grow about as the square of the width, more slowly where the embedding weighs most.
        estimate, before = nearest * math.sqrt(target / count(nearest)), estimate
        if abs(estimate - before) < 0.5:
            break
    candidates: list[int] = []
    for step in (8, 4, 2, 1):
        candidates += allowed_near(estimate, step)
        if candidates and off(min(candidates, key=off)) <= CLOSE:
            break
    best = min(candidates, key=off, default=None)
    if best is None or off(best) > ALLOWED:
        nearest = "" if best is None else f"; the nearest is {best}, with {count(best):,}"
        raise UsageError(f"no {field} gives {name} about {target:,} parameters{nearest}.")
    return best


def build(name: str, model_flags: dict[str, Any], vocab_size: int) -> nn.Module:
    """A model with the weights that seed 0 gives it; torch's generator stays where it is."""
    entry = known_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return entry.model_class(entry.config_class(vocab_size, **model_flags))
