"""An average of the weights over the last steps, which is what a run validates and saves."""

import copy

import torch
from torch import nn


class WeightAverage:
    """The exponential moving average of a model's weights.

        ``average ← d · average + (1 − d) · weights``,    ``d = min(decay, n / (n + 9))`` at step n

    At a constant learning rate the weights wander about a minimum; their average lies nearer to it, much as
    if the rate had been lowered at the end. The smaller d of the first steps lets the initial weights go.

    Args:
        model: its architecture and first weights, which are read again at each update.
        decay: in [0, 1); the average spans about ``1 / (1 − decay)`` steps. At 0 it is the weights.

    Attributes:
        model: a copy of the model with the averaged weights, in evaluation mode.

    Source: B. Polyak and A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        # Gathered once: a walk through the modules takes as long as the sums of a small model.
        self._averages, self._weights = list(self.model.parameters()), list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``, counted from 1."""
        weight = 1 - min(self.decay, step / (step + 9))
        torch._foreach_lerp_(self._averages, self._weights, weight)
