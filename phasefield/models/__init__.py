"""Whole models, by name.

A model is built from a frozen config dataclass whose first field is ``vocab_size``, keeps it as
``model.config``, and offers

- ``model.loss(tokens, targets, state=None)`` → :class:`ModelLoss`. In training mode what is random (masks,
  noise, dropout) comes from torch's global generator; in evaluation mode the same call gives the same loss,
  from a generator of the model's own.
- a causal model: ``logits, state = model(tokens, state)``, for decoding ``logits, state = model.step(token,
  state)``, and ``model.init_state(batch)``;
- another one: ``model.complete(prompt, length, …)``, see :class:`Completes`;
- one that learns by local rules, without parameters: ``model.learn_(tokens, targets, state, rate=…)`` →
  :class:`ModelLoss`, ``model.forget_(tokens, targets)`` and ``model.adaptable()``, see :class:`Field`;
- where it is not six times its parameters: ``model.training_flops_per_token(seq_len)``.

Adam's weight decay spares parameters of fewer than two dimensions and those marked ``_no_weight_decay``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field  # `field` is a model here
from typing import Any, Literal

from torch import nn

from .base import Completes, ModelLoss
from .diffusion_lm import DiffusionLM, DiffusionLMConfig
from .field import Field, FieldConfig
from .iterative_thinking import (
    IterativeThinking,
    IterativeThinkingConfig,
    MaskedIterativeThinking,
    MaskedIterativeThinkingConfig,
)
from .landauer import Landauer, LandauerConfig
from .mamba import MambaConfig, MambaLM
from .nanogpt import NanoGPT, NanoGPTConfig
from .phase_field import SIZES as PHASE_FIELD_SIZES
from .phase_field import PhaseField, PhaseFieldConfig

Measure = Literal["cross-entropy", "masked cross-entropy", "bound"]


@dataclass(frozen=True)
class ModelEntry:
    """What the commands know of a model.

    Attributes:
        config_class: its config dataclass.
        model_class: the module, built from one.
        sizes: config fields by name of size (``--size``); a flag given beside it wins.
        training: the training flags whose defaults are the model's own, by field of ``TrainConfig``.
        choices: those that hang on a flag of the model: its name, its value, and what ``training`` is then
            joined by.
        measure: what the loss's ``content`` is, in nats a token: the cross-entropy of the next token, that of
            masked tokens only, or a bound on the cross-entropy.
        width: the config field that a comparison changes to match models' numbers of parameters.
    """

    config_class: type[Any]
    model_class: type[nn.Module]
    sizes: Mapping[str, Mapping[str, Any]] = dataclass_field(default_factory=dict)
    training: Mapping[str, Any] = dataclass_field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclass_field(default_factory=dict)
    measure: Measure = "cross-entropy"
    width: str = "hidden_dim"

    @property
    def causal(self) -> bool:
        """Whether the model writes token after token."""
        return hasattr(self.model_class, "step")

    @property
    def local(self) -> bool:
        """Whether the model learns by local rules of its own (``learn_``) instead of gradients."""
        return hasattr(self.model_class, "learn_")


_TRANSFORMER_SIZES = {
    "tiny": {"hidden_dim": 128, "num_layers": 4, "num_heads": 4},
    "small": {"hidden_dim": 256, "num_layers": 6, "num_heads": 8},
    "medium": {"hidden_dim": 512, "num_layers": 8, "num_heads": 8},
}
_TRANSFORMER_TRAINING = {
    "seq_len": 128,
    "batch_size": 8,
    "lr": 2e-3,
    "warmup_steps": 100,
    "cosine": True,
}

MODELS: dict[str, ModelEntry] = {
    "landauer": ModelEntry(
        LandauerConfig,
        Landauer,
        # The faithful cell does not learn its text by heart, however often it reads it; this one does.
        choices={"cell": {"lru": {"decay_epochs": 8.0}}},
    ),
    "field": ModelEntry(
        FieldConfig,
        Field,
        sizes={
            "small": {"contexts": "0 1 2 3 4 5 6 w w1", "sites": 2**20, "horizon": 256},
            "base": {},
            "large": {"contexts": "0 1 2 3 4 5 6 7 8 10 w w1 w2 ws", "sites": 2**24, "horizon": 1024},
        },
        training={
            "batch_size": 16,
            "seq_len": 512,
            "lr": 0.1,
            "steps": 122,
            "save_every": 61,
            "eval_every": 61,
        },
    ),
    "mamba": ModelEntry(
        MambaConfig,
        MambaLM,
        sizes={
            "tiny": {"dim": 128, "num_layers": 4, "d_state": 8},
            "small": {"dim": 256, "num_layers": 6, "d_state": 16},
            "medium": {"dim": 512, "num_layers": 8, "d_state": 16},
        },
        width="dim",
        # The paper's: AdamW with these two, and five times the rate of a GPT-3 of that size.
        training={"lr": 3e-3, "beta2": 0.95, "weight_decay": 0.1, "cosine": True},
    ),
    "phase_field": ModelEntry(
        PhaseFieldConfig,
        PhaseField,
        sizes=PHASE_FIELD_SIZES,
        width="dim",
        training={
            "batch_size": 8,
            "seq_len": 256,
            "lr": 3e-3,
            "beta2": 0.95,
            "weight_decay": 0.01,
            "warmup_steps": 100,
            "cosine": True,
        },
    ),
    "nanogpt": ModelEntry(
        NanoGPTConfig,
        NanoGPT,
        sizes=_TRANSFORMER_SIZES,
        training=_TRANSFORMER_TRAINING,
    ),
    "iterative_thinking": ModelEntry(
        IterativeThinkingConfig,
        IterativeThinking,
        sizes=_TRANSFORMER_SIZES,
        training=_TRANSFORMER_TRAINING,
    ),
    "iterative_thinking_masked": ModelEntry(
        MaskedIterativeThinkingConfig,
        MaskedIterativeThinking,
        sizes=_TRANSFORMER_SIZES,
        training=_TRANSFORMER_TRAINING,
        measure="masked cross-entropy",
    ),
    "diffusion_lm": ModelEntry(
        DiffusionLMConfig,
        DiffusionLM,
        sizes={
            "tiny": {**_TRANSFORMER_SIZES["tiny"], "diffusion_steps": 100},
            "small": {**_TRANSFORMER_SIZES["small"], "diffusion_steps": 500},
            "medium": {**_TRANSFORMER_SIZES["medium"], "diffusion_steps": 1000},
        },
        training=_TRANSFORMER_TRAINING,
        measure="bound",
    ),
}

__all__ = [
    "MODELS",
    "Completes",
    "DiffusionLM",
    "DiffusionLMConfig",
    "Field",
    "FieldConfig",
    "IterativeThinking",
    "IterativeThinkingConfig",
    "Landauer",
    "LandauerConfig",
    "MambaConfig",
    "MambaLM",
    "MaskedIterativeThinking",
    "MaskedIterativeThinkingConfig",
    "Measure",
    "ModelEntry",
    "ModelLoss",
    "NanoGPT",
    "NanoGPTConfig",
    "PhaseField",
    "PhaseFieldConfig",
]
