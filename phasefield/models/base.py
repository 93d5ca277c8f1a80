"""What the commands ask of every model."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModelLoss:
    """The loss of one batch.

    Attributes:
        total: what is minimised, a scalar with its graph.
        terms: its parts by name, detached scalars; ``content`` is the mean cross-entropy in nats, or what
            :attr:`~phasefield.models.ModelEntry.measure` says takes its place.
        state: the model's state after the batch, for truncated back-propagation; None if it has none.
    """

    total: Tensor
    terms: dict[str, Tensor]
    state: Any


class Completes(Protocol):
    """A model that writes many tokens at once instead of one after another.

    It may also offer ``complete_steps``, with the arguments of :meth:`complete`: an iterator over drafts
    ``[B, n]``, n at most ``length``, the last of them the answer. In a draft an id outside the vocabulary is
    a place not decided yet.
    """

    def complete(
        self,
        prompt: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The tokens ``[B, length]`` that follow prompts ``[B, T]``, all of them drafted together.

        The sampling arguments mean what they mean in :func:`phasefield.generation.stream_tokens`.
        """
        ...
