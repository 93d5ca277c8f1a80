"""The definition of oscillatory_scan: the gated input into a rotation that the gate damps."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..rotation_scan import reference


def oscillatory_scan(
    x: Tensor,
    gate: Tensor,
    angle: Tensor,
    log_damping: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``h_t = σ(γ_t) x_t + (1 − σ(γ_t)) e^λ R(θ) h_{t-1}``; shapes as in the public function."""
    dtype = state_dtype(x)
    gate = gate.to(dtype)
    gated = torch.sigmoid(gate).unsqueeze(-1) * x.to(dtype)
    log_decay = F.logsigmoid(-gate)  # of 1 − σ(γ)
    if log_damping is not None:
        log_decay = log_decay + log_damping.to(dtype)
    h, final_state = reference.rotation_scan(gated, angle, log_decay, initial_state, cu_seqlens)
    return h.to(x.dtype), final_state
