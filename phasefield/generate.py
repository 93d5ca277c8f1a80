"""``phasefield generate --checkpoint DIR --prompt TEXT``: continue a prompt with a trained model."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import command_line
from .errors import UsageError, reported
from .generation import stream_tokens
from .training import find_checkpoint, load_model
from .training.device import out_of_memory_reported, pick_backend, pick_device


@dataclass(frozen=True)
class GenerateFlags:
    """What to continue, and how."""

    checkpoint: str = "saved_models"
    """a run's folder (its best checkpoint is taken) or a step folder"""
    prompt: str = " "
    """the text to continue"""
    max_new_tokens: int = 200
    """characters to write"""
    device: str = "cpu"
    """cpu, auto, cuda, cuda:1, xpu …"""
    temperature: float = 1.0
    """of sampling: 1 = the model's own distribution, less is more cautious, 0 = always the likeliest (the
    --temperature of train is another one, of the energy term)"""
    top_k: int = 0
    """choose among the k likeliest characters; 0 = off"""
    top_p: float = 1.0
    """choose among the likeliest characters that together reach this probability; 1 = off"""
    seed: int | None = None
    """of the choices; different each time if left out"""

    def __post_init__(self) -> None:
        allowed = {
            "prompt": (self.prompt != "", "at least one character"),
            "max_new_tokens": (self.max_new_tokens >= 0, "at least 0"),
            "temperature": (0 <= self.temperature < math.inf, "at least 0 (0 = the likeliest) and finite"),
            "top_k": (self.top_k >= 0, "at least 0 (0 = off)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (1 = off)"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)!r}; it must be {what}.")


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Print the prompt and its continuation, character by character as it comes."""
    flags = command_line.parse_flags(
        GenerateFlags,
        arguments,
        command="phasefield generate",
        description="Continue a prompt with a trained model.",
    )
    device = pick_device(flags.device)
    pick_backend(device)  # a wrong PHASEFIELD_BACKEND is said now
    model, tokenizer = load_model(find_checkpoint(flags.checkpoint), device)
    with reported(ValueError):
        prompt = tokenizer.encode(flags.prompt).to(device).unsqueeze(0)
    generator = torch.Generator(device)
    if flags.seed is None:
        generator.seed()
    else:
        generator.manual_seed(flags.seed)
    print(flags.prompt, end="", flush=True)
    for token in stream_tokens(
        model,
        prompt,
        flags.max_new_tokens,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        generator=generator,
    ):
        print(tokenizer.decode(token), end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(run))
