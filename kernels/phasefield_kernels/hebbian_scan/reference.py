"""The definition of hebbian_scan and phase_hebbian_scan: one step after the other."""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence


def hebbian_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``S_t = γ_t S_{t-1} + β_t u_t k_tᴴ``, ``y_t = S_t q_t``; complex where q has a last axis of 2.

    u_t is v_t, or for the delta rule ``v_t − γ_t S_{t-1} k_t``.
    """
    is_complex = q.ndim == 5
    heads, columns = q.shape[2:4]
    state_shape = (heads, v.shape[3], columns, *q.shape[4:])
    dtype = state_dtype(q)
    if cu_seqlens is not None:
        pieces = each_sequence(
            cu_seqlens,
            (q, k, v, log_decay, beta),
            (initial_state,),
            lambda q, k, v, log_decay, beta, state: hebbian_scan(
                q, k, v, log_decay, beta, delta, state, None
            ),
        )
        return (
            torch.cat([torch.zeros_like(v[:, :0], dtype=q.dtype), *(y for y, _ in pieces)], dim=1),
            torch.cat([q.new_zeros(0, *state_shape, dtype=dtype), *(final for _, final in pieces)]),
        )
    batch, length = q.shape[:2]
    gamma = q.new_ones(heads, dtype=dtype) if log_decay is None else log_decay.to(dtype).exp()
    strength = q.new_ones((), dtype=dtype) if beta is None else beta.to(dtype)
    gamma, strength = (t.expand(batch, length, heads)[..., None, None] for t in (gamma, strength))
    S = q.new_zeros(batch, *state_shape, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    numbers = (q.to(dtype), k.to(dtype), v.to(dtype), S)
    q_all, k_all, v_all, S = (torch.complex(*t.unbind(-1)) if is_complex else t for t in numbers)
    outputs = []
    steps = zip(*(t.unbind(1) for t in (q_all, k_all, v_all, gamma, strength)), strict=True)
    for q_t, k_t, v_t, gamma_t, beta_t in steps:
        decayed = gamma_t * S
        u_t = v_t.unsqueeze(-1)
        if delta:
            u_t = u_t - decayed @ k_t.unsqueeze(-1)
        S = decayed + beta_t * u_t * k_t.conj().unsqueeze(-2)
        outputs.append((S @ q_t.unsqueeze(-1)).squeeze(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v_all)
    y, S = (torch.stack([t.real, t.imag], dim=-1) if is_complex else t.clone() for t in (y, S))
    return y.to(q.dtype), S
