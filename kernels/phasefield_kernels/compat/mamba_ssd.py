"""mamba_ssm's Mamba-2 scan (SSD): a drop-in for ``mamba_chunk_scan_combined`` on hebbian_scan."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import checks
from ..hebbian_scan import hebbian_scan


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """mamba_ssm's ``mamba_chunk_scan_combined``: a state ``[P, N]`` a head, decaying as a whole.

        ``h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ``,     ``y_t = (h_t C_t + D x_t) · silu(z_t)``

    Δ is dt + dt_bias, through a softplus if ``dt_softplus``, clamped to ``dt_limit``. This is
    :func:`~phasefield_kernels.hebbian_scan` with q = C, k = B, v = x, β = Δ and log γ = Δ A.

    Args:
        x, z: ``[B, T, H, P]``.
        dt: ``[B, T, H]``, Δ ≥ 0.
        A: ``[H]``, ≤ 0.
        B, C: ``[B, T, G, N]`` for G groups of H / G heads; N and P up to 256.
        chunk_size: chunks are chosen here; this one is not read.
        D: ``[H]`` or ``[H, P]``.
        dt_bias: ``[H]``.
        initial_states: ``[B, H, P, N]``, zeros if None.
        seq_idx: ``[B, T]``, never decreasing in a row; where it changes the state starts again from 0. Only
            the sequence that comes first starts from initial_states.
        cu_seqlens: ``[S + 1]`` offsets, for return_varlen_states with B = 1.
        return_final_states: also return ``[B, H, P, N]``.
        return_varlen_states: also return the states at the ends of the S sequences, ``[S, H, P, N]``, each
            started from 0. Unlike mamba_ssm's they have gradients.
        state_dtype: of the states that are returned, float32 if None; they are computed in float32.

    Returns:
        out ``[B, T, H, P]`` in x's dtype; with the flags ``(out, final_states, varlen_states)`` without those
        that are not asked for.

    Raises:
        ValueError: a shape, dtype or device that does not fit.
    """
    checks.shape("x", x, ("B", "T", "H", "P"))
    checks.dtype("x", x, checks.FLOATS)
    batch, length, heads, _ = x.shape
    checks.parameter("dt", dt, x, (batch, length, heads))
    checks.parameter("A", A, x, (heads,))
    checks.parameter("B", B, x, (batch, length, "G", "N"))
    checks.parameter("C", C, x, tuple(B.shape))
    if B.shape[2] == 0 or heads % B.shape[2]:
        raise ValueError(f"B has {B.shape[2]} groups; allowed is a number that divides H = {heads}.")
    wide = checks.state_dtype(x)
    delta = dt.to(wide)
    if dt_bias is not None:
        checks.parameter("dt_bias", dt_bias, x, (heads,))
        delta = delta + dt_bias.to(wide)
    delta = F.softplus(delta) if dt_softplus else delta
    delta = delta.clamp(*dt_limit)
    log_decay = delta * A.to(wide)
    if seq_idx is not None:
        checks.shape("seq_idx", seq_idx, (batch, length))
        log_decay = _restarting(log_decay, seq_idx)
    k, q = (_by_head(tensor.to(x.dtype), heads) for tensor in (B, C))
    out, final_states = hebbian_scan(q, k, x, log_decay, delta, initial_state=initial_states)
    if D is not None:
        checks.parameter("D", D, x, (heads,), (heads, x.shape[3]))
        out = (out + (D if D.ndim == 2 else D.unsqueeze(1)).to(wide) * x).to(x.dtype)
    if z is not None:
        checks.parameter("z", z, x, tuple(x.shape))
        out = (out * F.silu(z.to(wide))).to(x.dtype)
    states = []
    if return_final_states:
        states.append(final_states)
    if return_varlen_states:
        if cu_seqlens is None:
            raise ValueError("cu_seqlens is None; return_varlen_states needs the offsets of the sequences.")
        states.append(hebbian_scan(q, k, x, log_decay, delta, cu_seqlens=cu_seqlens)[1])
    return (out, *(s.to(state_dtype or s.dtype) for s in states)) if states else out


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    # [B, T, G, N] → [B, T, H, N]: a view for one group.
    batch, length, groups, states = tensor.shape
    repeated = tensor.unsqueeze(3).expand(-1, -1, -1, heads // groups, -1)
    return repeated.reshape(batch, length, heads, states)


def _restarting(log_decay: Tensor, seq_idx: Tensor) -> Tensor:
    # A sequence's first step forgets all that was before; the very first one keeps the initial state.
    starts = torch.zeros_like(seq_idx, dtype=torch.bool)
    starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return log_decay.masked_fill(starts.unsqueeze(-1), -torch.inf)
