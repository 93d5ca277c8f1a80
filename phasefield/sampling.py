"""The flags of sampling, which `generate` and `chat` share."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from .errors import UsageError


@dataclass(frozen=True)
class SamplingFlags:
    """How text is drawn from a model.

    Raises:
        UsageError: a value out of range; the message names the flag.
    """

    max_new_tokens: int = 200
    """tokens to write: characters, if the model was trained on those"""
    temperature: float = 1.0
    """of sampling: 1 = the model's own distribution, less is more cautious, 0 = always the likeliest (the
    --temperature of train is another one, of the energy term)"""
    top_k: int = 0
    """choose among the k likeliest tokens; 0 = off"""
    top_p: float = 1.0
    """choose among the likeliest tokens that together reach this probability; 1 = off"""
    seed: int | None = None
    """of the choices; different each time if left out"""

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": (self.max_new_tokens >= 0, "at least 0"),
            "temperature": (0 <= self.temperature < math.inf, "at least 0 (0 = the likeliest) and finite"),
            "top_k": (self.top_k >= 0, "at least 0 (0 = off)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (1 = off)"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)!r}; it must be {what}.")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of :func:`~phasefield.generation.sample` and ``complete``."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator of its own for the device, at the seed."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator
