"""Whole models, by name.

A model is built from a frozen config dataclass whose first field is ``vocab_size``, keeps it as
``model.config``, and offers

- ``model.loss(tokens, targets, state=None)`` → :class:`ModelLoss`. In training mode what is random (masks,
  noise, dropout) comes from torch's global generator; in evaluation mode the same call gives the same loss,
  from a generator of the model's own.
- a causal model: ``logits, state = model(tokens, state)``, for decoding ``logits, state = model.step(token,
  state)``, and ``model.init_state(batch)``;
- another one: ``model.complete(prompt, length, …)``, see :class:`Completes`.

Adam's weight decay spares parameters of fewer than two dimensions and those marked ``_no_weight_decay``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from .base import Completes, ModelLoss
from .landauer import Landauer, LandauerConfig
from .phase_field import SIZES as PHASE_FIELD_SIZES
from .phase_field import PhaseField, PhaseFieldConfig


@dataclass(frozen=True)
class ModelEntry:
    """What the commands know of a model.

    Attributes:
        config_class: its config dataclass.
        model_class: the module, built from one.
        sizes: config fields by name of size (``--size``); a flag given beside it wins.
        training: the training flags whose defaults are the model's own, by field of ``TrainConfig``.
        measure: what the loss's ``content`` is, in nats a token: the cross-entropy of the next token, that of
            masked tokens only, or a bound on the cross-entropy.
    """

    config_class: type[Any]
    model_class: type[nn.Module]
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    measure: Literal["cross-entropy", "masked cross-entropy", "bound"] = "cross-entropy"

    @property
    def causal(self) -> bool:
        """Whether the model writes token after token."""
        return hasattr(self.model_class, "step")


MODELS: dict[str, ModelEntry] = {
    "landauer": ModelEntry(LandauerConfig, Landauer),
    "phase_field": ModelEntry(
        PhaseFieldConfig,
        PhaseField,
        sizes=PHASE_FIELD_SIZES,
        training={"batch_size": 8, "seq_len": 256, "lr": 1e-3, "warmup_steps": 100, "cosine": True},
    ),
}

__all__ = [
    "MODELS",
    "Completes",
    "Landauer",
    "LandauerConfig",
    "ModelEntry",
    "ModelLoss",
    "PhaseField",
    "PhaseFieldConfig",
]
