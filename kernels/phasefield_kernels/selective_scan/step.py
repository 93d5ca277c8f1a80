"""selective_scan's decoding step in PyTorch: a dozen small ops, each on the whole state at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..pairs import as_complex
from ..threads import one_thread_if_small
from .tiles import Inputs


def step_(inputs: Inputs, state: Tensor) -> Tensor:
    """One step, inputs with T = 1; the contiguous state is overwritten, the output ``[B, 1, D]`` returned."""
    x, dt, B, C, z, A, D, dt_bias, dt_softplus = inputs
    real = state_dtype(x)
    batch, _, width = x.shape
    wide, delta, A, B, C = (tensor.to(real) for tensor in (x, dt, A, B, C))
    h = state
    if A.ndim == 3:
        A, B, C, h = as_complex(A), as_complex(B), as_complex(C), torch.view_as_complex(state)
    groups = B.shape[2] if B.ndim == 4 else 1
    by_group = (batch, groups, width // groups)
    if dt_bias is not None:
        delta = delta + dt_bias.to(real)
    if dt_softplus:
        delta = F.softplus(delta)
    with one_thread_if_small(h.numel()):
        h.mul_(torch.mul(delta.view(batch, width, 1), A).exp_())
        grouped = h.view(*by_group, h.shape[2])
        driven = (delta * wide).view(*by_group, 1)
        grouped.addcmul_(driven.to(h.dtype), B.reshape(batch, groups, 1, h.shape[2]))
        y = torch.matmul(grouped, C.reshape(batch, groups, h.shape[2], 1))
    y = (2 * y.real if y.is_complex() else y).reshape(batch, 1, width)
    if D is not None:
        y.addcmul_(D.to(real), wide)
    if z is not None:
        y.mul_(F.silu(z.to(real)))
    return y.to(x.dtype)
