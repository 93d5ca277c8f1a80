"""Whole models, by name.

A model is built from a frozen config dataclass whose first field is ``vocab_size``, and offers
``logits, state = model(tokens, state)``, ``logits, state = model.step(token, state)``,
``model.init_state(batch)`` and ``model.loss(tokens, targets, state)`` → :class:`ModelLoss`.
"""

from typing import Any, NamedTuple

from torch import nn

from .base import ModelLoss
from .landauer import Landauer, LandauerConfig


class ModelEntry(NamedTuple):
    """A model's config dataclass and its class."""

    config_class: type[Any]
    model_class: type[nn.Module]


MODELS: dict[str, ModelEntry] = {
    "landauer": ModelEntry(LandauerConfig, Landauer),
}

__all__ = ["MODELS", "Landauer", "LandauerConfig", "ModelEntry", "ModelLoss"]
