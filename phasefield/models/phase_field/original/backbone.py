"""The origin's backbone, which at its start remembers for about one token."""

from typing import Any

import torch
from torch import Tensor, nn

from phasefield_kernels import oscillatory_scan

from ....layers import PhaseDropout, PhaseLinear
from ..backbones.stack import at_least_float32
from ..interfaces import Backbone
from ..registry import register_backbone
from .frame import OriginalNorm


class _Layer(nn.Module):
    """``h_t = g_t B u_t + (1 − g_t) ρ R(θ) h_{t-1}``, ``y_t = C h_t + D u_t``, ``g_t = σ(W u_t + b)``.

    ρ = ½ + ½ σ(p), p = 0.1 at the start, and θ = 2 atan a, a N(0, 0.01²).
    """

    def __init__(self, dim: int, state_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, state_dim)
        self.damping = nn.Parameter(torch.full((state_dim,), 0.1))
        self.a = nn.Parameter(0.01 * torch.randn(state_dim))
        self.input = PhaseLinear(dim, state_dim)
        self.output = PhaseLinear(state_dim, dim)
        self.skip = PhaseLinear(dim, dim)

    def forward(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        damping, a = at_least_float32(self.damping), at_least_float32(self.a)
        log_damping = (0.5 + 0.5 * damping.sigmoid()).log()
        h, state = oscillatory_scan(self.input(u), self.gate(u.flatten(-2)), 2 * a.atan(), log_damping, state)
        return self.output(h, residual=self.skip(u)), state


@register_backbone("original_oscillatory", description="the origin's, without gates or a lasting memory")
class OriginalBackbone(Backbone):
    """``x ← x + 0.1 layer(norm(x))``, and a norm on what leaves.

    Args:
        state_dim: complex states a layer; twice the channels if None.
    """

    def __init__(self, dim: int, num_layers: int, dropout: float = 0.0, state_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = 2 * dim if state_dim is None else state_dim
        self.norms = nn.ModuleList(OriginalNorm(dim) for _ in range(num_layers + 1))
        self.layers = nn.ModuleList(_Layer(dim, self.state_dim) for _ in range(num_layers))
        self.dropout = PhaseDropout(dropout)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        *norms, last = self.norms
        finals = []
        for number, (norm, layer) in enumerate(zip(norms, self.layers, strict=True)):
            y, final = layer(norm(x), None if state is None else state[number])
            x = x + 0.1 * self.dropout(y)
            finals.append(final)
        return last(x), tuple(finals)

    def init_state(self, batch: int) -> tuple[Tensor, ...]:
        zeros = at_least_float32(self.layers[0].a.new_zeros(batch, self.state_dim, 2))
        return tuple(zeros.clone() for _ in self.layers)
