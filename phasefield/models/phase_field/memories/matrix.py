"""A memory that every token writes to: matrices of complex numbers with decays of their own."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import phase_hebbian_scan, phase_hebbian_scan_step_

from ....layers import PhaseLinear, PhaseRMSNorm
from ..interfaces import Memory
from ..registry import register_memory


class MatrixState(NamedTuple):
    """The last token's key ``[B, heads, width, 2]``; S, ``[B, heads, states, width, width, 2]``."""

    key: Tensor
    matrices: Tensor


@register_memory("matrix", description="fast weights: K states a head, mixed by the token")
class MatrixMemory(Memory):
    """``y = L norm(Σ_s mix_s S^{(s)} q)`` with ``S_t = γ_t S_{t-1} + β_t (v_t − γ_t S_{t-1} κ_t) κ_tᴴ``.

    ``[q; k; v] = L z`` in heads, q and k of length 1. A token's value is written under the key of the token
    before it, ``κ_t = k_{t-1}`` (0 at the beginning of a text): a query that equals an earlier token's key
    reads what came next, and one of another phase the same turned by the difference. Queries and keys start
    with the same weights, so that tokens find their like before anything is learnt. β, the decays ``γ =
    exp(−softplus(·))`` and the complex weights of the states are the token's own. Decays start spread over
    the states from 0.9999 to 0.97, so that one remembers for 10,000 tokens; weights start even.

    Args:
        heads: dim must be a multiple of it. A head tells as many keys apart as it is wide, dim / heads.
        states: memories a head.

    Source: the phase-associative memory of arXiv:2604.05030, with the delta rule of
    :func:`phasefield_kernels.hebbian_scan`.
    """

    def __init__(self, dim: int, heads: int = 4, states: int = 2) -> None:
        super().__init__()
        if min(heads, states) < 1 or dim % heads:
            raise ValueError(
                f"heads is {heads} and states {states}; each must be at least 1, and heads divide {dim}."
            )
        self.heads, self.states, self.width = heads, states, dim // heads
        self.input_norm = PhaseRMSNorm(dim)
        self.input = PhaseLinear(dim, 3 * dim)
        # Of each token, for each head: β, and for each of its states a decay and a complex weight.
        self.control = nn.Linear(2 * dim, heads * (1 + 3 * states))
        self.norm = PhaseRMSNorm(dim)
        self.output = PhaseLinear(dim, dim)
        nn.init.normal_(self.control.weight, std=0.1 * (2 * dim) ** -0.5)
        with torch.no_grad():
            self.input.weight[dim : 2 * dim] = self.input.weight[:dim]
            bias = self.control.bias.zero_().view(heads, 1 + 3 * states)
            rates = torch.logspace(-4, -1.5, states) if states > 1 else torch.tensor([1e-3])
            bias[:, 1 : 1 + states] = torch.log(torch.expm1(rates))
            bias[:, 1 + states : 1 + 2 * states] = 1 / states

    def forward(self, x: Tensor, state: MatrixState | None = None) -> tuple[Tensor, MatrixState]:
        last, past = (None, None) if state is None else state
        q, k, v, log_decay, beta, mix = self.controls(x)
        keys = self.from_before(k, last)
        y, past = phase_hebbian_scan(
            q, keys[:, :-1], v, log_decay, beta, "delta", past, n_states=self.states, mix=mix
        )
        # A copy: a view would keep all keys alive as long as the state.
        last = keys[:, -1].to(self.control.weight.dtype, copy=True)
        return self.output(self.norm(y.flatten(-3, -2))), MatrixState(last, past)

    def step(self, x: Tensor, state: MatrixState) -> tuple[Tensor, MatrixState]:
        q, k, v, log_decay, beta, mix = self.controls(x)
        before = state.key.to(k.dtype)
        y = phase_hebbian_scan_step_(
            q, before, v, log_decay, beta, "delta", state.matrices, n_states=self.states, mix=mix
        )
        state.key.copy_(k)
        return self.output(self.norm(y.flatten(-3, -2))), state

    def init_state(self, batch: int) -> MatrixState:
        """Zeros."""
        weight = self.control.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch, self.heads, self.states, self.width, self.width, 2)
        key = weight.new_zeros(batch, self.heads, self.width, 2)
        return MatrixState(key, torch.zeros(shape, dtype=dtype, device=weight.device))

    def controls(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(q, k, v, log_decay, beta, mix)`` of a stream ``[…, dim, 2]``; k are the tokens' own keys."""
        u = self.input_norm(x)
        q, k, v = self.input(u).unflatten(-2, (3, self.heads, self.width)).unbind(-4)
        q, k = (F.normalize(t.flatten(-2), dim=-1).view(t.shape) for t in (q, k))
        control = self.control(u.flatten(-2)).unflatten(-1, (self.heads, -1))
        beta, decay, real, imaginary = control.split([1, *[self.states] * 3], dim=-1)
        log_decay = -F.softplus(decay.float() if decay.dtype != torch.float64 else decay)
        return q, k, v, log_decay, beta.squeeze(-1).sigmoid(), torch.stack([real, imaginary], dim=-1)

    @staticmethod
    def from_before(k: Tensor, last: Tensor | None = None) -> Tensor:
        """``[last; k]`` along time, zeros for no last: its t-th is the key under which token t is written."""
        first = k.new_zeros(len(k), 1, *k.shape[2:]) if last is None else last.to(k.dtype).unsqueeze(1)
        return torch.cat([first, k], dim=1)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, states={self.states}, width={self.width}"
