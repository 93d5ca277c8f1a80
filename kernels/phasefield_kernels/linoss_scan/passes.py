"""linoss_scan's two directions, on either form of the scans they are made of.

A :class:`Form` scans pairs: all channels by the rotation, then critical ones again by their matrices.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import gradient_dtype, state_dtype
from .transition import Transition, transition


class Form(NamedTuple):
    """The scans of one backend.

    Attributes:
        rotate: ``rotation_scan.<form>.forward``.
        rotate_back: ``rotation_scan.<form>.backward``.
        by_matrix: ``(pairs [B, T, D, 2], transition, start, out, last, cu_seqlens, reverse)`` scans the
            critical channels by their matrices from start into out and last, which it overwrites there; in
            reverse by the transposed ones from the last step, last then being what enters the first step.
        gradients: see :func:`gradients`.
    """

    rotate: Callable[..., tuple[Tensor, Tensor]]
    rotate_back: Callable[..., tuple[Tensor, ...]]
    by_matrix: Callable[..., None]
    gradients: Callable[..., tuple[Tensor, Tensor, Tensor]]


def forward(
    form: Form,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(positions like u, final_state, pairs)``; pairs ``[B, T, D, 2]`` are what the backward needs."""
    step = transition(A, dt, discretization)
    dtype = state_dtype(u)
    inputs = u.to(dtype).unsqueeze(-1) * step.gain.to(dtype)
    start = None if initial_state is None else _pairs(initial_state.to(dtype), step)
    pairs, last = form.rotate(inputs, step.angle, step.log_decay, None, start, cu_seqlens)
    form.by_matrix(inputs, step, start, pairs, last, cu_seqlens, reverse=False)
    positions = pairs[..., 1] / step.kappa.to(dtype)
    position, velocity = _states(last, step)
    return positions.to(u.dtype), torch.stack([position, velocity], dim=-1), pairs


def backward(
    form: Form,
    grad_positions: Tensor,
    grad_final: Tensor,
    pairs: Tensor,
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    discretization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to u, A, dt and initial_state.

    The pair c and the state (q, v) are linear in each other, so the gradient to one gives the other's:
      Re C = dL/dv,     Im C = (dL/dq − α dL/dv) / κ
    and C_t goes backward as a rotation's (or a matrix's) gradient does, from Im C_t = (dL/dq_t) / κ. Then,
    with P = dL/dv_t + dt dL/dq_t, the whole gradient to v_t:
      du_t = Σ gain · C_t
      dA = −Σ dt S q̂_t P_t,     ddt = Σ S (u_t − A q̂_t) P_t + v_t r_t
    where q̂_t = q_t and r_t = S (dL/dq_t − dt A dL/dv_t) (implicit; nothing large is subtracted where dt² A
    is), or q̂_t = q_{t-1} and r_t = dL/dq_t (implicit-explicit).
    """
    step = transition(A, dt, discretization)
    dtype = pairs.dtype
    to_pair = torch.stack([torch.zeros_like(step.kappa), 1 / step.kappa], dim=-1)
    direct = grad_positions.to(dtype).unsqueeze(-1) * to_pair.to(dtype)
    grad_position, grad_velocity = grad_final.unbind(-1)
    kappa, alpha = step.kappa.to(dtype), step.alpha.to(dtype)
    last = torch.stack([grad_velocity, (grad_position - alpha * grad_velocity) / kappa], dim=-1)
    whole, _, _, _, first = form.rotate_back(
        direct, last, pairs, None, step.angle, step.log_decay, None, None, cu_seqlens, False
    )
    form.by_matrix(direct, step, last, whole, first, cu_seqlens, reverse=True)

    grad_u, grad_A, grad_dt = form.gradients(whole, pairs, u, A, dt, step, discretization == "implicit")
    first_velocity, imaginary = first.unbind(-1)
    grad_initial = torch.stack([kappa * imaginary + alpha * first_velocity, first_velocity], dim=-1)
    return grad_u, grad_A.to(gradient_dtype(A, u)), grad_dt.to(gradient_dtype(dt, u)), grad_initial


def gradients(
    whole: Tensor, pairs: Tensor, u: Tensor, A: Tensor, dt: Tensor, step: Transition, implicit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to u, A and dt, as :func:`backward` states them.

    Args:
        whole: C ``[B, T, D, 2]``, the whole gradients to the pairs.
        pairs: the pairs.
        u: forces ``[B, T, D]``.
        A: squared frequencies ``[D]``.
        dt: time steps ``[D]``.
        step: their transition.
        implicit: the discretization.
    """
    dtype = pairs.dtype
    A, dt, damping = A.to(dtype), dt.to(dtype), step.damping.to(dtype)
    position, velocity = _states(pairs, step)
    to_velocity, imaginary = whole.unbind(-1)
    to_position = step.kappa.to(dtype) * imaginary + step.alpha.to(dtype) * to_velocity
    through = to_velocity + dt * to_position
    if implicit:
        pull, rest = position, damping * (to_position - dt * A * to_velocity)
    else:
        pull, rest = position - dt * velocity, to_position
    force = damping * (u.to(dtype) - A * pull)
    grad_u = (whole * step.gain.to(dtype)).sum(-1).to(u.dtype)
    grad_A = -(dt * damping) * (pull * through).sum((0, 1))
    return grad_u, grad_A, (force * through + velocity * rest).sum((0, 1))


def _pairs(state: Tensor, step: Transition) -> Tensor:
    position, velocity = state.unbind(-1)
    kappa, alpha = step.kappa.to(state.dtype), step.alpha.to(state.dtype)
    return torch.stack([velocity + alpha * position, kappa * position], dim=-1)


def _states(pairs: Tensor, step: Transition) -> tuple[Tensor, Tensor]:
    """(position, velocity) of pairs ``[…, D, 2]``."""
    real, imaginary = pairs.unbind(-1)
    position = imaginary / step.kappa.to(pairs.dtype)
    return position, real - step.alpha.to(pairs.dtype) * position
