"""One decoding step of hebbian_scan in PyTorch: as few small ops as can be, because each costs microseconds.

A complex state is read as the real matrix ``[V, 2K]`` it is, and a complex vector z as two real ones, conj(z)
and i conj(z): their products with the state's rows are the parts of S z, and the sum of their outer products
with the parts of u is u zᴴ.
"""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..threads import one_thread_if_small

_WORTH_TWO_THREADS = 1 << 18  # numbers of a state; with 98,304 a step takes 82 µs on one thread, 102 on two


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
    with one_thread_if_small(state.numel(), _WORTH_TWO_THREADS):
        return _step_(q, k, v, log_decay, beta, delta, state)


def _step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    dtype = state_dtype(q)
    batch, heads, rows = v.shape[:3]
    number = batch * heads
    S = state.view(number, rows, -1)
    vectors = torch.stack([k, q]).to(dtype)
    if q.ndim == 4:
        conjugate = torch.view_as_complex(vectors).conj_physical()
        vectors = torch.view_as_real(torch.stack([conjugate, conjugate * 1j], dim=3))
    key, query = vectors.view(2, number, -1, S.shape[2]).unbind(0)
    if log_decay is not None:
        S.mul_(log_decay.to(dtype).exp().expand(batch, heads).reshape(number, 1, 1))
    u = v.to(dtype).reshape(number, rows, -1)
    if delta:
        u = u - torch.bmm(key, S.mT).mT
    if beta is not None:
        u = u * beta.to(dtype).reshape(number, 1, 1)
    S.baddbmm_(u, key)
    return torch.bmm(query, S.mT).mT.contiguous().view(v.shape).to(q.dtype)
