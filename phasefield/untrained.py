"""A model for whoever has trained none yet: the field, which has learnt nothing."""

import string
import sys
from pathlib import Path

import torch
from torch import nn

from .data import CharTokenizer, Tokenizer
from .models import Field, FieldConfig
from .training import find_checkpoint, load_model
from .training.hebbian import boundaries

FOLDER = "saved_models"
"""Where the commands look for a checkpoint if none is named."""


def load_or_untrained(
    checkpoint: str | None, text: str, device: torch.device
) -> tuple[nn.Module, Tokenizer, Path | None]:
    """The model of a checkpoint, its tokenizer, and the checkpoint.

    If none is named and there is no folder ``saved_models``, the model is a small field that has learnt
    nothing, over printable ASCII and the characters of a text; a warning says so on standard error.

    Raises:
        UserError: as :func:`~phasefield.training.load_model`.
    """
    if checkpoint is not None or Path(FOLDER).exists():
        found = find_checkpoint(checkpoint or FOLDER)
        return *load_model(found, device), found
    print(
        f"warning: there is no {FOLDER} here and --checkpoint names none: this is a field model that has "
        "learnt nothing. phasefield train field trains one.",
        file=sys.stderr,
        flush=True,
    )
    tokenizer = CharTokenizer.from_text(
        string.digits + string.ascii_letters + string.punctuation + " \n" + text
    )
    model = Field(FieldConfig(tokenizer.vocab_size, sites=2**16))
    model.set_boundaries(boundaries(tokenizer))
    return model.to(device).eval(), tokenizer, None
