"""The thermodynamic cost of changing one's mind."""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

LN_PHI = math.log((1 + math.sqrt(5)) / 2)


class ThermodynamicInertiaLoss(nn.Module):
    """Adds to a task loss what the hidden state's motion costs: ``total = content + energy_weight · energy``.

        ``energy = temperature · ln φ · mean over (B, t ≥ 2, D) of (h_t − h_{t-1})²``

    ln φ = 0.4812, φ the golden ratio, stands for ln 2 of Landauer's bound on erasing a bit. A single
    time step has no motion: its energy is 0.

    Args:
        temperature: of the energy, dimensionless; 0.1 is the origin's class default (0.05 its command's).
        energy_weight: of the energy in the total; 1.0 is the origin's class default (0.1 its command's).

    Source: Landauer LLM; R. Landauer, "Irreversibility and heat generation in the computing process", 1961.
    """

    def __init__(self, temperature: float = 0.1, energy_weight: float = 1.0) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("energy_weight", energy_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be at least 0 and finite.")
        self.temperature = temperature
        self.energy_weight = energy_weight

    def forward(self, content: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The total and the energy, both scalars.

        Args:
            content: the task loss, a scalar.
            hidden: states ``[B, T, D]``; the energy is computed in float32.
        """
        if hidden.shape[1] < 2:
            energy = hidden.new_zeros((), dtype=torch.float32)
        else:
            energy = self.temperature * LN_PHI * _MeanSquaredMotion.apply(hidden.float())
        return content + self.energy_weight * energy, energy

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, energy_weight={self.energy_weight}"


class _MeanSquaredMotion(torch.autograd.Function):
    """``mean of (h_t − h_{t-1})²`` of ``[B, T ≥ 2, D]``: F.mse_loss of two slices.

    With m_t = 2 (h_t − h_{t-1}) / n, n their number: ``dh_t = m_t − m_{t+1}``, with m_0 = m_T = 0. Autograd
    would widen both slices' gradients with zeros and add them: twice the passes over memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        return F.mse_loss(hidden[:, 1:], hidden[:, :-1])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        motion = hidden[:, 1:] - hidden[:, :-1]
        motion *= grad * (2 / motion.numel())
        result = hidden.new_empty(hidden.shape)
        result[:, 0] = 0
        result[:, 1:] = motion
        result[:, :-1] -= motion
        return result
