"""``phasefield generate --checkpoint DIR --prompt TEXT``: continue a prompt with a trained model."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from rich.console import Console
from torch import Tensor, nn

from . import command_line
from .data import TextStream, Tokenizer
from .drafts import draw_drafts
from .errors import UsageError, reported
from .generation import stream_tokens
from .models import MODELS
from .sampling import SamplingFlags
from .training import find_checkpoint, load_model
from .training.device import out_of_memory_reported, pick_backend, pick_device


@dataclass(frozen=True)
class GenerateFlags:
    """What to continue, and how."""

    checkpoint: str = "saved_models"
    """a run's folder (its best checkpoint is taken) or a step folder"""
    prompt: str = " "
    """the text to continue"""
    device: str = "cpu"
    """cpu, auto, cuda, cuda:1, xpu …"""
    show_thinking: bool = False
    """draw how the text settles, for models that draft it as a whole"""
    sampling: SamplingFlags = SamplingFlags()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.prompt == "":
            raise UsageError("--prompt is ''; it must be at least one character.")


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Print the prompt and its continuation, as it comes if the model writes token after token."""
    flags = command_line.parse_flags(
        GenerateFlags,
        arguments,
        command="phasefield generate",
        description="Continue a prompt with a trained model.",
    )
    device = pick_device(flags.device)
    pick_backend(device)  # a wrong PHASEFIELD_BACKEND is said now
    checkpoint = find_checkpoint(flags.checkpoint)
    model, tokenizer = load_model(checkpoint, device)
    if flags.show_thinking and not hasattr(model, "complete_steps"):
        drafting = [name for name, entry in MODELS.items() if hasattr(entry.model_class, "complete_steps")]
        raise UsageError(
            f"--show-thinking: the model in {checkpoint} has no drafts to show; models that draft are: "
            f"{', '.join(drafting) or 'none'}."
        )
    with reported(ValueError):
        prompt = tokenizer.encode(flags.prompt).to(device).unsqueeze(0)
    _write(flags, model, tokenizer, prompt)
    return 0


def _write(flags: GenerateFlags, model: nn.Module, tokenizer: Tokenizer, prompt: Tensor) -> None:
    sampling = flags.sampling
    options = {**sampling.options, "generator": sampling.generator(prompt.device)}
    count = sampling.max_new_tokens
    if hasattr(model, "step"):
        tokens: Iterable[Tensor] = stream_tokens(model, prompt, count, **options)
    else:
        with reported(ValueError), torch.inference_mode():
            if flags.show_thinking:
                console = Console(highlight=False)
                answer = draw_drafts(model.complete_steps(prompt, count, **options), tokenizer, console)
                answer = prompt[:, :0] if answer is None else answer
            else:
                answer = model.complete(prompt, count, **options)
        tokens = answer.unbind(1)
    text = TextStream(tokenizer)
    # The prompt too goes through the stream: its last word may get a suffix.
    for token in chain(prompt.unbind(1), tokens):
        print(text.push(token.item()), end="", flush=True)
    print(text.finish())


if __name__ == "__main__":
    sys.exit(command_line.run(run))
