"""What every model gives back for a training step."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ModelLoss:
    """The loss of one batch.

    Attributes:
        total: what is minimised, a scalar with its graph.
        terms: its parts by name, detached scalars; ``content`` is the mean cross-entropy in nats.
        state: the model's state after the batch, for truncated back-propagation.
    """

    total: Tensor
    terms: dict[str, Tensor]
    state: Any
