"""``phasefield analyze "TEXT" --save-path FILE.png``: what goes on in a model while it reads a text."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from . import analysis, command_line
from .errors import UsageError, reported
from .models import MODELS
from .training.device import out_of_memory_reported, pick_backend, pick_device
from .untrained import load_or_untrained


@dataclass(frozen=True)
class AnalyzeFlags:
    """What to read, and where the pictures go."""

    sentence: Annotated[str | None, tyro.conf.Positional] = None
    """the text to read, as --text"""
    text: str | None = None
    """the text to read"""
    checkpoint: str | None = None
    """a run's folder (its best checkpoint is taken) or a step folder; saved_models if left out"""
    save_path: str = "analysis.png"
    """the picture; numbers and further pictures go beside it, under the same name"""
    device: str = "cpu"
    """cpu, auto, cuda, cuda:1, xpu …"""

    def __post_init__(self) -> None:
        if not (self.sentence or self.text):
            raise UsageError('there is no text to read; give one, as in phasefield analyze "Hello world".')
        if self.sentence is not None and self.text is not None:
            raise UsageError(
                f"--text is {self.text!r}, and {self.sentence!r} is given too; give one of them."
            )
        if Path(self.save_path).suffix.lower() != ".png":
            raise UsageError(f"--save-path is {self.save_path!r}; it must be a file that ends in .png.")


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Draw, write the numbers, and print those that are single ones."""
    flags = command_line.parse_flags(
        AnalyzeFlags,
        arguments,
        command="phasefield analyze",
        description="Look into a model while it reads a text: phasefield analyze TEXT [FLAGS]. Models that "
        f"can be looked into: {', '.join(_looked_into())}.",
    )
    device = pick_device(flags.device)
    pick_backend(device)
    text, path = flags.text or flags.sentence, Path(flags.save_path)
    model, tokenizer, _ = load_or_untrained(flags.checkpoint, text, device)
    module = importlib.import_module(f"{analysis.__name__}.{_name(model)}")
    with reported(ValueError):
        tokenizer.encode(text)  # what it cannot read is said before anything is drawn
    with reported(OSError), torch.inference_mode():
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = module.analyze(model, tokenizer, text, path)
    for name, value in numbers.items():
        if isinstance(value, float | int | str):
            print(
                f"{name.replace('_', ' ')}: {value:.4g}"
                if isinstance(value, float)
                else f"{name.replace('_', ' ')}: {value}"
            )
    written = sorted(file.name for file in path.parent.glob(f"{path.stem}*") if file.stem == path.stem)
    print(f"wrote {', '.join(written)} in {path.parent}")
    return 0


def _looked_into() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(analysis.__path__) if module.name in MODELS]


def _name(model: nn.Module) -> str:
    name = next(name for name, entry in MODELS.items() if isinstance(model, entry.model_class))
    if name not in _looked_into():
        raise UsageError(
            f"the checkpoint's model is {name}; models that can be looked into: {', '.join(_looked_into())}."
        )
    return name


if __name__ == "__main__":
    sys.exit(command_line.run(run))
