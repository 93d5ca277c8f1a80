"""Forced harmonic oscillators as a backbone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import linoss_scan, linoss_scan_step_

from ..registry import register_backbone
from .stack import Recurrence, Stack, at_least_float32


class LinOSSRecurrence(Recurrence):
    """Positions of oscillators ``q'' = −A q + v`` (LinOSS-IM), one a part of a complex state.

    Real and imaginary part share ``A = relu(Â)`` and the time step ``Δ = σ(δ)``; both start as the paper's,
    Â and δ uniform in [0, 1]. u does not enter: LinOSS is time-invariant.

    Args:
        dim: not used.
        state_dim: complex states.

    Source: T. K. Rusch and D. Rus, "Oscillatory state-space models", 2024.
    """

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.squared_frequency = nn.Parameter(torch.rand(state_dim))
        self.time_step = nn.Parameter(torch.rand(state_dim))

    def forward(self, v: Tensor, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        positions, state = linoss_scan(v.flatten(-2), *self._oscillators(), state)
        return positions.unflatten(-1, (-1, 2)), state

    def step(self, v: Tensor, u: Tensor, state: Tensor) -> Tensor:
        return linoss_scan_step_(v.flatten(-2), *self._oscillators(), state).unflatten(-1, (-1, 2))

    def init_state(self, batch: int) -> Tensor:
        """``[batch, 2 state_dim, 2]``: position and velocity last."""
        return at_least_float32(self.time_step.new_zeros(batch, 2 * self.state_dim, 2))

    def lengths(self) -> Tensor:
        # The answer to one push, whose squares add up: after 2,000 steps what is left of it is nothing.
        push = torch.zeros(1, 2048, 2 * self.state_dim)
        push[:, 0] = 1
        answer, _ = linoss_scan(push, *(parameter.detach() for parameter in self._oscillators()))
        return answer.square().sum(1).view(-1, 2)[:, 0].sqrt()

    def footprint(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        # Both eigenvalues of a step have the modulus (1 + Δ² A)^-½.
        squared, step = (parameter.view(-1, 2)[:, 0] for parameter in self._oscillators())
        log_decay = -0.5 * torch.log1p(step.square() * squared)
        return log_decay.expand(v.shape[:-1]), v.square().sum(-1).sqrt()

    def _oscillators(self) -> tuple[Tensor, Tensor]:
        squared, step = at_least_float32(self.squared_frequency), at_least_float32(self.time_step)
        return F.relu(squared).repeat_interleave(2), step.sigmoid().repeat_interleave(2)

    def extra_repr(self) -> str:
        return f"state_dim={self.state_dim}"


@register_backbone("linoss", description="forced harmonic oscillators (LinOSS)")
class LinOSSBackbone(Stack):
    """:class:`~.stack.Stack` of :class:`LinOSSRecurrence`."""

    recurrence = LinOSSRecurrence
