"""The definition of rotation_scan: one step after the other, differentiated by autograd."""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence
from ..phases import radians_from_phase


def rotation_scan(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``h_t = exp(λ_t) R(θ_t) h_{t-1} + x_t``; shapes as in the public function."""
    dtype = state_dtype(x)
    if cu_seqlens is not None:
        pieces = each_sequence(
            cu_seqlens,
            (x, angle, log_decay),
            (initial_state,),
            lambda *piece: rotation_scan(*piece, None),
        )
        no_state = x.new_empty(0, *x.shape[2:], dtype=dtype)
        return (
            torch.cat([x[:, :0], *(h for h, _ in pieces)], dim=1),
            torch.cat([no_state, *(final for _, final in pieces)]),
        )
    shape = x.shape[:3]
    θ = radians_from_phase(angle, dtype).expand(shape)
    ρ = torch.ones((), dtype=dtype, device=x.device).expand(shape)
    if log_decay is not None:
        ρ = log_decay.to(dtype).exp().expand(shape)
    cos, sin = ρ * θ.cos(), ρ * θ.sin()
    h = (
        x.new_zeros(x.shape[0], *x.shape[2:], dtype=dtype)
        if initial_state is None
        else initial_state.to(dtype)
    )
    outputs = []
    for x_t, cos_t, sin_t in zip(x.to(dtype).unbind(1), cos.unbind(1), sin.unbind(1), strict=True):
        real, imaginary = h.unbind(-1)
        rotated = torch.stack([cos_t * real - sin_t * imaginary, sin_t * real + cos_t * imaginary], dim=-1)
        h = rotated + x_t
        outputs.append(h)
    stacked = torch.stack(outputs, dim=1) if outputs else x.to(dtype, copy=True)
    return stacked.to(x.dtype), h.clone()
