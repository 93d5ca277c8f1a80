"""The field in motion: unit states fall towards those before them."""

import torch
from torch import Tensor, nn

from phasefield_kernels import gravity_field

from .golden import PHI


class FieldEvolution(nn.Module):
    """Explicit midpoint steps of states under the gravity of the past, brought back to unit length.

        ``ψ_½ = ψ + Δt/2 F(ψ)``,    ``ψ ← normalise(ψ + Δt F(ψ_½))``

    with the causal Plummer force of :func:`phasefield_kernels.gravity_field`: a state feels the strictly
    earlier ones only, and no term of the force exceeds ``0.385 / ε²``.

    Args:
        steps: at least 1; the origin's model has 5.
        time_step: Δt, 0.01 is the origin's.
        strength: g, 1/φ is the origin's.
        softening: ε.

    >>> field = FieldEvolution(20)
    >>> x = torch.eye(3)[None]
    >>> fallen = field(x)
    >>> torch.equal(fallen[:, 0], x[:, 0])  # nothing is before the first
    True
    >>> bool(field.energy(fallen) < field.energy(x))
    True
    """

    def __init__(
        self, steps: int = 5, *, time_step: float = 0.01, strength: float = 1 / PHI, softening: float = 0.1
    ) -> None:
        super().__init__()
        if steps < 1 or not time_step > 0 or not softening > 0:
            raise ValueError(
                f"steps, time_step and softening are {steps}, {time_step} and {softening}; they must be at "
                "least 1, and above 0."
            )
        self.steps, self.time_step, self.strength, self.softening = steps, time_step, strength, softening

    def forward(self, x: Tensor, mass: Tensor | None = None) -> Tensor:
        """Move states ``[B, T, D]`` of masses ``[B, T]`` (ones if None)."""
        for _ in range(self.steps):
            half = x + 0.5 * self.time_step * self.force(x, mass)
            x = nn.functional.normalize(x + self.time_step * self.force(half, mass), dim=-1)
        return x

    def force(self, x: Tensor, mass: Tensor | None = None) -> Tensor:
        """The acceleration of each state."""
        return gravity_field(x, mass, self.strength, self.softening)

    def energy(self, x: Tensor, mass: Tensor | None = None) -> Tensor:
        """Potential energy ``−g Σ_{j<i} m_i m_j / √(|x_i − x_j|² + ε²)``, ``[B]``; a ``T × T`` sum."""
        mass = torch.ones(x.shape[:2], device=x.device) if mass is None else mass
        squares = torch.cdist(x.float(), x.float()).square()
        pairs = mass.unsqueeze(2) * mass.unsqueeze(1) * (squares + self.softening**2).rsqrt()
        return -self.strength * pairs.tril(-1).sum((1, 2))

    def momentum(self, x: Tensor, mass: Tensor | None = None) -> Tensor:
        """``Σ_i m_i F_i``, ``[B, D]``: the rate at which momentum changes.

        It would be 0 if forces came in pairs; the past does not feel the future, so here it is not.
        """
        mass = torch.ones(x.shape[:2], device=x.device) if mass is None else mass
        return (mass.unsqueeze(-1) * self.force(x, mass)).sum(1)

    def extra_repr(self) -> str:
        return f"steps={self.steps}, time_step={self.time_step}, strength={self.strength:.3g}"
