"""A LinOSS step as a rotation where its eigenvalues allow it, and as a 2×2 matrix where they do not.

With position q, velocity v and ``s = dt² A`` both discretisations step by

    ``v ← S (v + dt (u − A q))``,     ``q ← q + dt v``,      S = 1/(1 + s) (implicit) or 1 (implicit-explicit)

whose eigenvalues λ, conj(λ) are complex for 0 < s (implicit) and 0 < s < 4 (implicit-explicit). There

    ``c = v + (α + iκ) q``     obeys     ``c_t = λ c_{t-1} + dt λ u_t``,      q = Im c / κ,   v = Re c − α q

    implicit:            λ = 1 / (1 − i √s),                      α = 0,           κ = √A
    implicit-explicit:   λ = e^{iθ}, θ = 2 arcsin(√s / 2),        α = −dt A / 2,   κ = sin θ / dt

At the ends of that range λ is a double eigenvalue without a second eigenvector: κ → 0, and c holds q no
more. Within :data:`CRITICAL` of them a channel keeps the pair ``c = v + i q / dt`` (α = 0, κ = 1/dt) and
steps by the real matrix

    ``[[S, −S s], [S, 1 − S s]]``     on (Re c, Im c), and the input dt S u to both.

All is formed in float64.

Source: T. K. Rusch and D. Rus, "Oscillatory state-space models", 2024.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CRITICAL = 2.0**-14
"""Distance of s = dt² A from a double eigenvalue within which a channel steps by its matrix.

Outside, a step turns by at least 2^-7 rad, of which the fused kernels' phases resolve 2·10^-7.
"""


class Transition(NamedTuple):
    """One step of each channel; all ``[D]`` in float64 but where said.

    Attributes:
        angle, log_decay: of λ; of channels that are not critical.
        gain: what c gets from a unit of u, ``[D, 2]``.
        alpha, kappa: α and κ of the pair c.
        critical: bool; these channels step by ``matrix``.
        matrix: ``[D, 4]``, row by row.
        damping: S.
    """

    angle: Tensor
    log_decay: Tensor
    gain: Tensor
    alpha: Tensor
    kappa: Tensor
    critical: Tensor
    matrix: Tensor
    damping: Tensor


def transition(A: Tensor, dt: Tensor, discretization: str) -> Transition:
    """What a step does, from the squared frequencies A ``[D]`` and time steps dt ``[D]``."""
    A, dt = A.double(), dt.double()
    s = dt * dt * A
    critical = s < CRITICAL
    if discretization == "implicit":
        damping = 1 / (1 + s)
        root = s.clamp(min=CRITICAL).sqrt()
        angle, log_decay = torch.atan(root), -0.5 * torch.log1p(root * root)
        alpha, kappa = torch.zeros_like(s), root / dt
    else:
        critical = critical | (4 - s < CRITICAL)
        damping = torch.ones_like(s)
        angle = 2 * torch.asin(s.clamp(CRITICAL, 4 - CRITICAL).sqrt() / 2)
        log_decay = torch.zeros_like(s)
        alpha, kappa = -0.5 * dt * A, torch.sin(angle) / dt
    eigenvalue = torch.polar(log_decay.exp(), angle)
    gain = torch.view_as_real(eigenvalue) * dt.unsqueeze(-1)
    same = (dt * damping).unsqueeze(-1).expand(-1, 2)
    matrix = torch.stack([damping, -damping * s, damping, 1 - damping * s], dim=-1)
    return Transition(
        angle=angle,
        log_decay=log_decay,
        gain=torch.where(critical.unsqueeze(-1), same, gain),
        alpha=torch.where(critical, 0.0, alpha),
        kappa=torch.where(critical, 1 / dt, kappa),
        critical=critical,
        matrix=matrix,
        damping=damping,
    )
