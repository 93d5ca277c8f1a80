"""The definition of aperiodic_scan: one step after the other, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence
from ..phases import radians_from_phase


def aperiodic_scan(
    u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``h_t = tanh(u_t + c · h_{t-1} · cos(φ + h_{t-1}))``; shapes as in the public function."""
    if cu_seqlens is not None:
        pieces = each_sequence(
            cu_seqlens,
            (u,),
            (initial_state,),
            lambda piece, state: aperiodic_scan(piece, scale, phase, state, None),
        )
        state_like = u.new_empty(0, u.shape[2], dtype=state_dtype(u))
        return (
            torch.cat([u[:, :0], *(h for h, _ in pieces)], dim=1),
            torch.cat([state_like, *(final for _, final in pieces)]),
        )
    dtype = state_dtype(u)
    c, φ = scale.to(dtype), radians_from_phase(phase, dtype)
    h = u.new_zeros(u.shape[0], u.shape[2], dtype=dtype) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for u_t in u.to(dtype).unbind(1):
        h = torch.tanh(u_t + c * h * torch.cos(φ + h))
        outputs.append(h)
    stacked = torch.stack(outputs, dim=1) if outputs else u.to(dtype, copy=True)
    return stacked.to(u.dtype), h.clone()
