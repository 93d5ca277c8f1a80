"""Mamba's block: a selective state-space model behind a short convolution."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import selective_scan, selective_scan_step_

from .causal_conv import CausalConv1d
from .rms_norm import RMSNorm
from .ssm import SSMState, at_least_float32, initial_dt_bias, normed, require_sizes, state_like


class Mamba(nn.Module):
    """A residual block around Mamba's selective scan.

        ``[u_t, z_t] = W_in norm(x_t)``,                  ``u_t ← silu(conv(u)_t)``
        ``[δ_t, B_t, C_t] = W_x u_t``,                    ``Δ_t = softplus(W_Δ δ_t + b_Δ)``
        ``h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t``,       ``y_t = C_t h_t + D u_t``
        ``out_t = x_t + W_out (y_t · silu(z_t))``

    with ``A = −exp(A_log)`` and a state of ``d_state`` numbers for each of u's ``expand · dim`` channels.
    Parameters have the names of mamba_ssm's. It starts as the paper has it: ``A_n = −n``, D at 1, b_Δ such
    that Δ is log-uniform in [0.001, 0.1], W_Δ uniform in ``± dt_rank^-½``.

    Weight decay is to spare A_log and D, marked ``_no_weight_decay``, besides all biases and norms.

    Args:
        dim: width of input and output.
        d_state: N, states a channel.
        d_conv: taps of the convolution.
        expand: the inner width over dim.
        dt_rank: width of δ; ``dim / 16``, rounded up, if None.
        bias: give W_in and W_out a bias.
        conv_bias: give the convolution one.
        norm_eps: of the RMS norm.

    The defaults are the paper's.

    Raises:
        ValueError: a size under 1.

    Source: A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        *,
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        require_sizes(dim=dim, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
        inner = expand * dim
        self.dim = dim
        self.d_state = d_state
        self.dt_rank = dt_rank
        self.norm = RMSNorm(dim, eps=norm_eps)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=bias)
        self.conv1d = CausalConv1d(inner, d_conv, bias=conv_bias)
        self.x_proj = nn.Linear(inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=bias)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True

    def forward(self, x: Tensor, state: SSMState | None = None) -> tuple[Tensor, SSMState]:
        """Run the block over ``x`` ``[B, T, dim]``.

        Args:
            x: the input.
            state: ``conv`` ``[B, d_conv - 1, expand · dim]``, ``ssm`` ``[B, expand · dim, d_state]``; zeros
                if None.

        Returns:
            ``(out, state)``: out like x, and the state after the last step.
        """
        u, z = self.in_proj(normed(self.norm, x)).chunk(2, dim=-1)
        u, tail = self.conv1d(u, None if state is None else state.conv)
        u = F.silu(u)
        dt, A, B, C = self._selected(u)
        initial = None if state is None else state.ssm
        y, final = selective_scan(u, dt, A, B, C, self.D, z, self.dt_proj.bias, True, initial)
        return x + self.out_proj(y), SSMState(tail, final)

    def step(self, x: Tensor, state: SSMState) -> tuple[Tensor, SSMState]:
        """One step for decoding, x ``[B, dim]``, under ``no_grad``: overwrites ``state`` and returns it."""
        u, z = self.in_proj(normed(self.norm, x)).chunk(2, dim=-1)
        u = F.silu(self.conv1d.step(u, state.conv))
        dt, A, B, C = self._selected(u)
        y = selective_scan_step_(u, dt, A, B, C, self.D, z, self.dt_proj.bias, True, state.ssm)
        return x + self.out_proj(y), state

    def init_state(self, batch: int) -> SSMState:
        """The zero state of ``batch`` sequences."""
        weight = self.conv1d.weight
        conv = weight.new_zeros(batch, weight.shape[2] - 1, weight.shape[0])
        return SSMState(conv, state_like(self.A_log, batch, *self.A_log.shape))

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        # The scan adds the bias: its softplus and the sum are float32 then.
        return F.linear(dt, self.dt_proj.weight), -torch.exp(at_least_float32(self.A_log)), B, C

    def extra_repr(self) -> str:
        return f"{self.dim}, d_state={self.d_state}, dt_rank={self.dt_rank}"
