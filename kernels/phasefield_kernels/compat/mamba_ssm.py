"""mamba_ssm's selective scan: a drop-in for ``mamba_ssm.ops.selective_scan_interface`` and its update.

Mamba-2's scan, :func:`ssd_scan`, is in :mod:`.mamba_ssd`.

Layouts are mamba_ssm's, channels before time, and read through strides. Unlike there, everything runs on a
CPU too, all gradients included.
"""

import torch
from torch import Tensor

from .. import checks
from ..selective_scan import selective_scan, selective_scan_step_
from .mamba_ssd import ssd_scan

__all__ = ["selective_scan_fn", "selective_state_update", "ssd_scan"]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """mamba_ssm's ``selective_scan_fn``; the recurrence is :func:`~phasefield_kernels.selective_scan`'s.

    Args:
        u, delta, z: ``[B, D, L]``.
        A: ``[D, N]``, float32 or complex64.
        B, C: constant ``[D, N]`` (complex for complex A), or by token ``[B, N, L]`` or ``[B, G, N, L]``; for
            complex A ``[B, N, 2 L]`` or ``[B, G, N, 2 L]`` with real and imaginary parts side by side. The
            gradient to a constant one is a sum over a ``[B, L, D, N]`` tensor.
        D, delta_bias: ``[D]``.
        delta_softplus: put delta + delta_bias through a softplus.
        return_last_state: return ``(out, last_state)``.

    Returns:
        out ``[B, D, L]`` in u's dtype; last_state ``[B, D, N]`` in float32, or complex64 for complex A.

    Raises:
        ValueError: a shape, dtype or device that does not fit; names are those of ``selective_scan``, whose
            x and dt are u and delta here.
    """
    checks.shape("u", u, ("B", "D", "L"))
    is_complex = A.is_complex()
    B, C = _grouped_alike(*(_by_token(tensor, u, is_complex) for tensor in (B, C)), u.shape[1])
    y, last_state = selective_scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        _parts(A),
        B,
        C,
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        delta_softplus,
    )
    out = y.transpose(1, 2)
    if not return_last_state:
        return out
    return out, torch.view_as_complex(last_state) if is_complex else last_state


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """mamba_ssm's ``selective_state_update``: one token; ``state`` is overwritten.

    Args:
        state: ``[B, D, N]``, or ``[B, H, D, N]`` with H heads; any real dtype.
        x, dt, z: ``[B, D]`` or ``[B, H, D]``.
        A: ``[D, N]`` or ``[H, D, N]``.
        B, C: ``[B, N]`` or ``[B, G, N]``, G groups of heads (of channels without heads).
        D, dt_bias: ``[D]`` or ``[H, D]``.
        dt_softplus: put dt + dt_bias through a softplus.
        state_batch_indices: ``[B]`` integers, which of a state's rows (there may be more than B) each token
            moves, no row twice; a negative one stands for padding: its output is 0, and no state moves.

    Returns:
        ``[B, D]`` or ``[B, H, D]`` in x's dtype.

    Raises:
        ValueError: a shape, dtype or device that does not fit.
        RuntimeError: under grad mode, if an input requires grad.
    """
    checks.shape("state", state, ("B", "D", "N"), ("B", "H", "D", "N"))
    heads = state.ndim == 4

    def flat(tensor: Tensor | None, dims: int) -> Tensor | None:
        # The head and channel dimensions, which start at `dims`, as one.
        return tensor.flatten(dims, dims + 1) if heads and tensor is not None else tensor

    rows = state
    if state_batch_indices is not None:
        checks.shape("state_batch_indices", state_batch_indices, (x.shape[0],))
        checks.dtype("state_batch_indices", state_batch_indices, (torch.int32, torch.int64))
        padding = state_batch_indices < 0
        rows = state[state_batch_indices.clamp(min=0)]
    wide = checks.state_dtype(x)
    # A step overwrites a contiguous state in float32; any other gets a copy back.
    own = flat(rows, 1).to(wide).contiguous()
    y = selective_scan_step_(
        flat(x, 1), flat(dt, 1), flat(A, 0), B, C, flat(D, 0), flat(z, 1), flat(dt_bias, 0), dt_softplus, own
    ).view(x.shape)
    if state_batch_indices is not None:
        y[padding] = 0
        state[state_batch_indices[~padding]] = own.view(rows.shape)[~padding].to(state.dtype)
    elif own.data_ptr() != state.data_ptr():
        state.copy_(own.view(state.shape))
    return y


def _parts(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _by_token(tensor: Tensor, u: Tensor, is_complex: bool) -> Tensor:
    # As selective_scan reads it: [B, L, G, N(, 2)].
    checks.shape("B or C", tensor, ("D", "N"), ("B", "N", "L"), ("B", "G", "N", "L"))
    if tensor.ndim == 2:
        # Constant, one vector a channel: as many groups as channels, at every token the same.
        own = _parts(tensor)
        return own.expand(u.shape[0], u.shape[2], *own.shape)
    if is_complex:
        tensor = tensor.unflatten(-1, (-1, 2)).movedim(-2, 1)
    else:
        tensor = tensor.movedim(-1, 1)
    return tensor if tensor.ndim == 4 + is_complex else tensor.unsqueeze(2)


def _grouped_alike(B: Tensor, C: Tensor, width: int) -> tuple[Tensor, Tensor]:
    # Where one of them is constant, or they have different numbers of groups: both by channel.
    if B.shape[2] == C.shape[2]:
        return B, C
    return tuple(
        t.repeat_interleave(width // t.shape[2], dim=2)
        if t.shape[2] > 1
        else t.expand(-1, -1, width, *t.shape[3:])
        for t in (B, C)
    )
