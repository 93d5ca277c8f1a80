"""The definition of selective_scan: one step after the other, differentiated by autograd."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..packing import each_sequence


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t``, ``y_t = C_t h_t + D x_t``; shapes as in the public one."""
    if cu_seqlens is not None:
        pieces = each_sequence(
            cu_seqlens,
            (x, dt, B, C, z),
            (initial_state,),
            lambda x, dt, B, C, z, state: selective_scan(
                x, dt, A, B, C, D, z, dt_bias, dt_softplus, state, None
            ),
        )
        no_state = x.new_empty(0, *A.shape, dtype=state_dtype(x))
        return (
            torch.cat([x[:, :0], *(y for y, _ in pieces)], dim=1),
            torch.cat([no_state, *(final for _, final in pieces)]),
        )
    dtype, out_dtype = state_dtype(x), x.dtype
    is_complex = A.ndim == 3
    x, dt, A, B, C = (tensor.to(dtype) for tensor in (x, dt, A, B, C))
    if is_complex:
        A, B, C = (torch.view_as_complex(tensor.contiguous()) for tensor in (A, B, C))
    # B and C by channel, [B, T, D, N].
    B, C = (
        tensor.unsqueeze(2).expand(-1, -1, x.shape[2], -1)
        if tensor.ndim == 3
        else tensor.repeat_interleave(x.shape[2] // tensor.shape[2], dim=2)
        for tensor in (B, C)
    )
    delta = dt if dt_bias is None else dt + dt_bias.to(dtype)
    delta = F.softplus(delta) if dt_softplus else delta
    h = torch.zeros(x.shape[0], *A.shape, dtype=A.dtype, device=x.device)
    if initial_state is not None:
        h = initial_state.to(dtype)
        h = torch.view_as_complex(h.contiguous()) if is_complex else h
    outputs = []
    for x_t, delta_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, delta, B, C)), strict=True):
        h = torch.exp(delta_t.unsqueeze(-1) * A) * h + (delta_t * x_t).unsqueeze(-1) * B_t
        y_t = (C_t * h).sum(-1)
        outputs.append(2 * y_t.real if is_complex else y_t)
    y = torch.stack(outputs, dim=1) if outputs else x.clone()
    y = y if D is None else y + D.to(dtype) * x
    y = y if z is None else y * F.silu(z.to(dtype))
    return y.to(out_dtype), (torch.view_as_real(h) if is_complex else h).clone()
