"""The definition of linoss_scan: one step after the other, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence


def step(u: Tensor, A: Tensor, dt: Tensor, state: Tensor, discretization: str) -> Tensor:
    """The state ``[…, 2]`` (position, velocity) after one step of the force u."""
    position, velocity = state.unbind(-1)
    velocity = velocity + dt * (u - A * position)
    if discretization == "implicit":
        velocity = velocity / (1 + dt * dt * A)
    return torch.stack([position + dt * velocity, velocity], dim=-1)


def linoss_scan(
    u: Tensor,
    A: Tensor,
    dt: Tensor,
    initial_state: Tensor | None,
    discretization: str,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Positions and the last state; shapes as in the public function."""
    dtype = state_dtype(u)
    batch, _, width = u.shape
    if cu_seqlens is not None:
        pieces = each_sequence(
            cu_seqlens,
            (u,),
            (initial_state,),
            lambda u, state: linoss_scan(u, A, dt, state, discretization, None),
        )
        no_state = u.new_empty(0, width, 2, dtype=dtype)
        return (
            torch.cat([u[:, :0], *(y for y, _ in pieces)], dim=1),
            torch.cat([no_state, *(final for _, final in pieces)]),
        )
    state = u.new_zeros(batch, width, 2, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    A, dt = A.to(dtype), dt.to(dtype)
    positions = []
    for u_t in u.to(dtype).unbind(1):
        state = step(u_t, A, dt, state, discretization)
        positions.append(state[..., 0])
    y = torch.stack(positions, dim=1) if positions else u.clone()
    return y.to(u.dtype), state.clone()
