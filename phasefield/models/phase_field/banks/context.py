"""What stands just before a token."""

import torch
from torch import Tensor, nn

from ....layers import PhaseLinear, phase_gate
from ..interfaces import Bank
from ..registry import register_bank
from .trunk import Trunk, entry


def with_past(x: Tensor, past: Tensor | None, steps: int) -> tuple[Tensor, Tensor]:
    """``(x with the last steps before it in front, the last steps of that)``; zeros before the beginning.

    Args:
        x: ``[B, T, …]``.
        past: ``[B, steps, …]``, or None at the beginning.
    """
    if past is None:
        past = x.new_zeros(x.shape[0], steps, *x.shape[2:])
    extended = torch.cat([past.to(x.dtype), x], dim=1)
    return extended, extended[:, extended.shape[1] - steps :].clone()


@register_bank("context", description="a causal window of neighbours")
class ContextBank(Bank):
    """``h_t = x_t + gate(c_t, L [x_t; c_t])`` with ``c_t = Σ_k w_k x_{t-k}`` over a window, then the trunk.

    Weights w are real, one a distance and channel; zeros stand before the beginning. The gate shortens and
    turns (:func:`phasefield.layers.phase_gate`).

    Args:
        window: tokens, the current one included; the origin's default.
    """

    def __init__(self, model_dim: int, dim: int, window: int = 8) -> None:
        super().__init__(dim)
        if window < 2:
            raise ValueError(f"window is {window}; it must be at least 2.")
        self.window = window
        self.entry = entry(model_dim, dim)
        self.taps = nn.Parameter(window**-0.5 * torch.randn(window, dim))
        self.taps._no_weight_decay = True
        self.gate = PhaseLinear(2 * dim, dim)
        self.trunk = Trunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        length = x.shape[1]
        extended, state = with_past(x, state, self.window - 1)
        local = x * self.taps[0].unsqueeze(-1)
        for distance in range(1, self.window):
            begin = self.window - 1 - distance
            local = torch.addcmul(
                local, extended[:, begin : begin + length], self.taps[distance].unsqueeze(-1)
            )
        gate = self.gate(torch.cat([x, local], dim=-2))
        return self.trunk(x + phase_gate(local, gate)), state

    def init_state(self, batch: int) -> Tensor:
        """The window's earlier inputs, zeros ``[batch, window − 1, dim, 2]``."""
        return self.taps.new_zeros(batch, self.window - 1, self.dim, 2)
