"""The origin's backbone: damped rotations, whose gate weighs the new against the past."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import oscillatory_scan, oscillatory_scan_step_

from ..registry import register_backbone
from .stack import Recurrence, Stack, at_least_float32


class OscillatoryRecurrence(Recurrence):
    """``h_t = g_t v_t + (1 − g_t) ρ R(θ) h_{t-1}`` with ``g_t = σ(W u_t + b)``, by channel.

    Starts with a memory: 1 − g and ρ are both spread over [0.9, 0.999] (their distances from 1 evenly on a
    logarithmic scale), which remembers for 5 to 500 tokens (the origin's, for one). Angles are spread
    over (0, π] in the same way, from a turn in 2,000 tokens to half a turn a token: each channel keeps time
    at its own scale. Angles are stored as they are, so that the scan takes no sine or cosine of a token.

    Args:
        dim: complex channels of u.
        state_dim: complex states.
    """

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.gate = nn.Linear(2 * dim, state_dim)
        nn.init.normal_(self.gate.weight, std=0.5 * (2 * dim) ** -0.5)
        with torch.no_grad():
            self.gate.bias.copy_(torch.logit(_spread(state_dim)[torch.randperm(state_dim)]))
        self.log_rate = nn.Parameter((-(1 - _spread(state_dim)[torch.randperm(state_dim)]).log()).log())
        exponent = torch.linspace(0, 1, state_dim + 1)[1:]
        self.angle = nn.Parameter(math.pi * 1000 ** (exponent - 1))

    def forward(self, v: Tensor, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return oscillatory_scan(v, self.gate(u.flatten(-2)), self._angles(v), self._log_damping(), state)

    def step(self, v: Tensor, u: Tensor, state: Tensor) -> Tensor:
        gate = self.gate(u.flatten(-2))
        return oscillatory_scan_step_(v, gate, self._angles(v), self._log_damping(), state)

    def init_state(self, batch: int) -> Tensor:
        """``[batch, state_dim, 2]``."""
        return at_least_float32(self.angle.new_zeros(batch, self.state_dim, 2))

    def lengths(self) -> Tensor:
        gate = self.gate.bias.detach().sigmoid()
        decay = (1 - gate) * torch.exp(self._log_damping().detach())
        return gate * torch.rsqrt(1 - decay * decay)

    def footprint(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.gate(u.flatten(-2))
        return F.logsigmoid(-gate) + self._log_damping(), gate.sigmoid() * v.square().sum(-1).sqrt()

    def _angles(self, v: Tensor) -> Tensor:
        return self.angle

    def _log_damping(self) -> Tensor:
        return -torch.exp(at_least_float32(self.log_rate))

    def extra_repr(self) -> str:
        return f"state_dim={self.state_dim}"


def _spread(count: int) -> Tensor:
    """From 0.001 to 0.1, evenly on a logarithmic scale."""
    return torch.logspace(-3, -1, count)


class TrigOscillatoryRecurrence(OscillatoryRecurrence):
    """The same function, with sine and cosine of every token's angle."""

    def _angles(self, v: Tensor) -> Tensor:
        return self.angle.expand(v.shape[:-1])


@register_backbone("oscillatory", description="gated damped rotations, initialised to remember")
class OscillatoryBackbone(Stack):
    """:class:`~.stack.Stack` of :class:`OscillatoryRecurrence`."""

    recurrence = OscillatoryRecurrence


@register_backbone("trig_oscillatory", description="oscillatory, with sine and cosine at every token")
class TrigOscillatoryBackbone(Stack):
    """:class:`~.stack.Stack` of :class:`TrigOscillatoryRecurrence`."""

    recurrence = TrigOscillatoryRecurrence
