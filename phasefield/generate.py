"""``phasefield generate "TEXT" --checkpoint DIR``: continue a prompt with a trained model."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from . import command_line
from .data import TextStream, Tokenizer
from .drafts import draw_drafts
from .errors import UsageError, reported
from .field_flags import FieldFlags
from .generation import Decoding
from .models import MODELS
from .sampling import SamplingFlags
from .training import find_checkpoint, load_model
from .training.device import out_of_memory_reported, pick_backend, pick_device
from .untrained import FOLDER, load_or_untrained


@dataclass(frozen=True)
class GenerateFlags:
    """What to continue, and how."""

    text: Annotated[str | None, tyro.conf.Positional] = None
    """the text to continue, as --prompt"""
    checkpoint: str | None = None
    """a run's folder (its best checkpoint is taken) or a step folder; saved_models if left out"""
    prompt: str | None = None
    """the text to continue; a space if left out"""
    num_samples: int = 1
    """continuations to write, one after another"""
    device: str = "cpu"
    """cpu, auto, cuda, cuda:1, xpu …"""
    show_thinking: bool = False
    """draw how the text settles, for models that draft it as a whole"""
    sampling: SamplingFlags = SamplingFlags()  # noqa: RUF009 (frozen)
    field: FieldFlags = FieldFlags()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if "" in (self.prompt, self.text):
            raise UsageError("--prompt is ''; it must be at least one character.")
        if self.prompt is not None and self.text is not None:
            raise UsageError(
                f"--prompt is {self.prompt!r}, and {self.text!r} is given too; give one of them."
            )
        if self.num_samples < 1:
            raise UsageError(f"--num-samples is {self.num_samples}; it must be at least 1.")

    @property
    def start(self) -> str:
        """The text to continue."""
        return self.text or self.prompt or " "


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Print the prompt and its continuation, as it comes if the model writes token after token."""
    flags = command_line.parse_flags(
        GenerateFlags,
        arguments,
        command="phasefield generate",
        description="Continue a prompt with a trained model: phasefield generate [TEXT] [FLAGS].",
    )
    device = pick_device(flags.device)
    pick_backend(device)  # a wrong PHASEFIELD_BACKEND is said now
    if flags.field.given:
        model, tokenizer, checkpoint = load_or_untrained(flags.checkpoint, flags.start, device)
        model = flags.field.prepared(model, checkpoint)
    else:
        checkpoint = find_checkpoint(flags.checkpoint or FOLDER)
        model, tokenizer = load_model(checkpoint, device)
    if flags.show_thinking and not hasattr(model, "complete_steps"):
        drafting = [name for name, entry in MODELS.items() if hasattr(entry.model_class, "complete_steps")]
        raise UsageError(
            f"--show-thinking: the model in {checkpoint} has no drafts to show; models that draft are: "
            f"{', '.join(drafting) or 'none'}."
        )
    with reported(ValueError):
        prompt = tokenizer.encode(flags.start).to(device).unsqueeze(0)
    generator = flags.sampling.generator(device)
    for number in range(flags.num_samples):
        if number:
            print(f"--- {number + 1} ---")
        _write(flags, model, tokenizer, prompt, generator)
    if flags.field.save_dir is not None:
        flags.field.save(model, tokenizer, checkpoint)
    return 0


def _write(
    flags: GenerateFlags, model: nn.Module, tokenizer: Tokenizer, prompt: Tensor, generator: torch.Generator
) -> None:
    sampling = flags.sampling
    options = {**sampling.options, "generator": generator}
    if hasattr(model, "step"):
        decoding = flags.field.decoding(model, generator) if flags.field.given else Decoding(model)
        tokens = _drawn(decoding, prompt, sampling.max_new_tokens, options)
    else:
        tokens = _completed(flags, model, tokenizer, prompt, options)
    text = TextStream(tokenizer)
    # The prompt too goes through the stream: its last word may get a suffix.
    for token in chain(prompt.unbind(1), tokens):
        print(text.push(token.item()), end="", flush=True)
    print(text.finish())


def _drawn(decoding: Decoding, prompt: Tensor, count: int, options: dict[str, Any]) -> Iterator[Tensor]:
    decoding.read(prompt)
    for _ in range(count):
        yield decoding.draw(**options)
    decoding.learn()


def _completed(
    flags: GenerateFlags, model: nn.Module, tokenizer: Tokenizer, prompt: Tensor, options: dict[str, Any]
) -> Sequence[Tensor]:
    count = flags.sampling.max_new_tokens
    with reported(ValueError), torch.inference_mode():
        if flags.show_thinking:
            console = Console(highlight=False)
            answer = draw_drafts(model.complete_steps(prompt, count, **options), tokenizer, console)
            answer = prompt[:, :0] if answer is None else answer
        else:
            answer = model.complete(prompt, count, **options)
    return answer.unbind(1)


if __name__ == "__main__":
    sys.exit(command_line.run(run))
