"""``phasefield merge FIRST SECOND …``: field models that learnt apart become one that knows what all know."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from . import command_line
from .data import Tokenizer
from .errors import UsageError, UserError, reported
from .field_flags import save_field
from .models import Field
from .training import find_checkpoint, load_model
from .training.device import out_of_memory_reported
from .training.run_folder import RunFolder


@dataclass(frozen=True)
class MergeFlags:
    """Which models, and where the one that they become goes."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """two or more: a run's folder (its best checkpoint is taken) or a step folder"""
    save_dir: str = "merged"
    """folder of the new checkpoint"""

    def __post_init__(self) -> None:
        if len(self.checkpoints) < 2:
            raise UsageError(f"there are {len(self.checkpoints)} checkpoints; merging takes two or more.")
        if not self.save_dir:
            raise UsageError("--save-dir is ''; it must be a folder.")


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Merge, from the first checkpoint to the last."""
    flags = command_line.parse_flags(
        MergeFlags,
        arguments,
        command="phasefield merge",
        description="Merge field models that learnt apart, in the same tokens (train --tokenizer takes those "
        "of another checkpoint): phasefield merge FIRST SECOND … [FLAGS].",
    )
    folder = RunFolder(flags.save_dir)
    folder.check_fresh()
    first, *others = [find_checkpoint(name) for name in flags.checkpoints]
    model, tokenizer = _load(first)
    for checkpoint in others:
        other, its = _load(checkpoint)
        if _symbols(its) != _symbols(tokenizer):
            raise UserError(
                f"{checkpoint} has other tokens than {first}; to be merged it is trained with "
                f"--tokenizer {first}."
            )
        with reported(ValueError):
            model.merge_(other)
    save_field(folder, model, tokenizer, first)
    table = model.crystal.bonds
    print(
        f"{folder.latest()}: {len(flags.checkpoints)} models; {table.occupied:,} of {len(table.tags):,} bonds"
    )
    return 0


def _load(checkpoint: Path) -> tuple[Field, Tokenizer]:
    model, tokenizer = load_model(checkpoint)
    if not isinstance(model, Field):
        raise UserError(f"{checkpoint} holds no field model; the weights of others cannot be merged.")
    return model, tokenizer


def _symbols(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]


if __name__ == "__main__":
    sys.exit(command_line.run(run))
