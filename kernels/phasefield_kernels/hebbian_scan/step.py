"""One decoding step of hebbian_scan in PyTorch: as few small ops as can be, because each costs microseconds.

A complex state is read as the real matrix ``[V, 2K]`` it is, and a complex vector z as two real ones, conj(z)
and i conj(z): their products with the state's rows are the parts of S z, and the sum of their outer products
with the parts of u is u zᴴ.
"""

import functools

import torch
from torch import Tensor

from ..threads import one_thread_if_small

_WORTH_TWO_THREADS = 1 << 18  # numbers of a state; with 98,304 a step takes 60 µs on one thread, 74 on two


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    dtype = state.dtype
    parts = q.ndim - 2  # of a number: 2 of a complex one
    number, rows, columns = q.shape[0] * q.shape[1], *state.shape[2:4]
    S = state.view(number, rows, columns * parts)
    with one_thread_if_small(state.numel(), _WORTH_TWO_THREADS):
        vectors = _in(dtype, torch.stack([k, q])).view(2, number, 1, *q.shape[2:])
        if parts == 2:
            vectors = (torch.view_as_complex(vectors).conj_physical_() * _one_and_i(q.device)).view(dtype)
        key, query = vectors.unbind(0)
        if log_decay is not None:
            state.view(*q.shape[:2], rows * columns * parts).mul_(_in(dtype, log_decay).exp().unsqueeze(-1))
        u = _in(dtype, v).reshape(number, rows, parts)
        if delta:
            u = u - torch.bmm(key, S.mT).mT
        if beta is not None:
            u = u * _in(dtype, beta).reshape(number, 1, 1)
        S.baddbmm_(u, key)
        return _in(q.dtype, torch.bmm(query, S.mT).mT.contiguous().view(v.shape))


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    # Five calls of Tensor.to with nothing to do would cost 4 µs.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


@functools.cache
def _one_and_i(device: torch.device) -> Tensor:
    # [2, 1]: the factors that make one complex vector two real ones.
    return torch.tensor([[1], [1j]], dtype=torch.complex64, device=device)
