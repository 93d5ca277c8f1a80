"""A gated unit whose gate is a complex number: its length weighs, its phase turns."""

import torch
from torch import Tensor, nn

from .phase import PhaseLinear, phase_product


def phase_gate(value: Tensor, gate: Tensor) -> Tensor:
    """``v · g / √(1 + |g|²)``: shortened by a factor in [0, 1) and turned by g's phase; smooth where g is 0.

    Both are ``[…, D, 2]``. A turn of the gates turns the result with them: where values and gates come from
    one input, a turn of it by α turns the result by 2α.
    """
    scale = torch.rsqrt(1 + gate.square().sum(-1, keepdim=True))
    return phase_product(value, gate) * scale


class PhaseGLU(nn.Module):
    """A gated linear unit on complex numbers: ``y = W_o (v · g / √(1 + |g|²))``, ``[v; g] = W x + b``.

    The gate sets both the magnitude and the rotation of what passes, without sine or cosine. Not equivariant:
    a turn of the input by α turns the output by 2α (with b at 0, where it starts), as each value meets a gate
    of the same input.

    Args:
        dim: complex channels of input and output.
        hidden_dim: of values and gates; dim if None.
        gain: of the output weights' first length, see :class:`PhaseLinear`.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, *, gain: float = 1.0) -> None:
        super().__init__()
        hidden_dim = dim if hidden_dim is None else hidden_dim
        self.input = PhaseLinear(dim, 2 * hidden_dim)
        self.output = PhaseLinear(hidden_dim, dim, gain=gain)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[…, dim, 2]`` → the same; a residual is added last."""
        value, gate = self.input(x).chunk(2, dim=-2)
        return self.output(phase_gate(value, gate), residual)
