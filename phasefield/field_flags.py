"""The flags of `generate` that only the field model has."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .data import Tokenizer
from .errors import UsageError, reported
from .generation import Decoding, LearningDecoding
from .layers.golden import Embedding
from .layers.perturbation import Kind
from .models import MODELS, Field
from .training.checkpoint import write_model
from .training.hebbian import FINAL_RATE
from .training.run_folder import RunFolder

_TRAINER = "trainer.json"


@dataclass(frozen=True)
class FieldFlags:
    """How the field is read while it writes (field model only).

    Raises:
        UsageError: a value out of range, or a flag that another one needs; the message names it.
    """

    perturbation: Kind = "none"
    """of the field while it reads"""
    embedding: Embedding | None = None
    """code of contexts as places; the one that the model was trained with if left out"""
    collapse: Literal["quantile", "absolute"] | None = None
    """where the field is coherent let the likeliest predictor speak alone: from a quantile of the coherence
    that training met on, or from an absolute coherence on"""
    collapse_at: float = 0.91
    """that quantile, or that coherence"""
    learn: bool = False
    """learn from the prompt, and from each token that was written"""
    save_dir: str | None = None
    """folder for the model as it is after --learn"""

    def __post_init__(self) -> None:
        if not 0 < self.collapse_at <= 1:
            raise UsageError(f"--collapse-at is {self.collapse_at}; it must be above 0 and at most 1.")
        if self.save_dir is not None and not self.learn:
            raise UsageError(
                f"--save-dir is {self.save_dir!r}, but without --learn there is nothing to save."
            )
        if self.save_dir == "":
            raise UsageError("--save-dir is ''; it must be a folder.")

    @property
    def given(self) -> list[str]:
        """Which of the flags say anything."""
        names = ("perturbation", "embedding", "collapse", "learn")
        return [f"--{name}" for name in names if getattr(self, name) not in (None, False, "none")]

    def prepared(self, model: nn.Module, checkpoint: Path | None) -> Field:
        """The model with the embedding asked for, once all flags are known to suit it.

        Raises:
            UsageError: the model is none of fields.
            UserError: it cannot collapse at a quantile, or the folder to save to holds a run.
        """
        if not isinstance(model, Field):
            raise UsageError(
                f"{self.given[0]} is of the field model, and {checkpoint} holds a {type(model).__name__}; "
                "leave it out, or give the checkpoint of a field with --checkpoint."
            )
        if self.save_dir is not None:
            RunFolder(self.save_dir).check_fresh()
        if self.collapse == "quantile":
            with reported(ValueError):
                model.coherence_quantile(self.collapse_at)
        if self.embedding is None:
            return model
        changed = Field(replace(model.config, embedding=self.embedding))
        changed.load_state_dict(model.state_dict())
        return changed.to(model.coherences.device).eval()

    def decoding(self, model: Field, generator: torch.Generator) -> Decoding:
        """A text that the model goes on with."""
        options: dict[str, Any] = {"perturbation": self.perturbation, "generator": generator}
        if self.collapse is not None:
            quantile = self.collapse == "quantile"
            options["collapse"] = model.coherence_quantile(self.collapse_at) if quantile else self.collapse_at
        if self.learn:
            # The rate that training ends with.
            return LearningDecoding(model, MODELS["field"].training["lr"] * FINAL_RATE, **options)
        return Decoding(model, **options)

    def save(self, model: Field, tokenizer: Tokenizer, checkpoint: Path | None) -> None:
        """Save what was learnt, see :func:`save_field`."""
        save_field(RunFolder(self.save_dir), model, tokenizer, checkpoint)


def save_field(folder: RunFolder, model: Field, tokenizer: Tokenizer, checkpoint: Path | None) -> None:
    """Save a field as the checkpoint of a folder, with the flags of the run of another one.

    Raises:
        UserError: it cannot be written.
    """

    def write(step: Path) -> None:
        write_model(step, "field", model, tokenizer)
        if checkpoint is not None:
            shutil.copy(checkpoint / _TRAINER, step / _TRAINER)

    bytes_kept = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    folder.check_writable(bytes_kept + 2**18)
    folder.save(0, None, write)
