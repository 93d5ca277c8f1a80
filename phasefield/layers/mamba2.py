"""Mamba-2's block: a state space whose every head decays as a whole."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import hebbian_scan, hebbian_scan_step_

from .causal_conv import CausalConv1d
from .rms_norm import RMSNorm
from .ssm import SSMState, at_least_float32, initial_dt_bias, normed, require_sizes, state_like


class Mamba2(nn.Module):
    """A residual block around Mamba-2's state-space duality, computed as a decaying matrix memory.

        ``[z_t, v_t, B_t, C_t, δ_t] = W_in norm(x_t)``,   ``[v, B, C] ← silu(conv([v, B, C]))``
        ``Δ_t = softplus(δ_t + b_Δ)``,                    ``h_t = exp(Δ_t A) h_{t-1} + Δ_t v_t B_tᵀ``
        ``out_t = x_t + W_out norm_g((h_t C_t + D v_t) · silu(z_t))``

    with one Δ, A and D for each of the ``expand · dim / head_dim`` heads, whose state h is ``[head_dim,
    d_state]``; B and C are shared by the heads of a group, and norm_g is over a group's channels.
    Parameters have the names of mamba_ssm's, norm_g aside. It starts as the paper has it: ``−A`` uniform in
    [1, 16], D at 1, Δ log-uniform in [0.001, 0.1].

    Weight decay is to spare A_log, D and dt_bias, marked ``_no_weight_decay``, besides all biases and norms.

    Args:
        dim: width of input and output.
        d_state: N, columns of a head's state, up to 256.
        d_conv: taps of the convolution.
        expand: the inner width over dim.
        head_dim: P, channels of a head, up to 256; divides ``expand · dim``.
        groups: of heads that share B and C; divides the number of heads.
        bias: give W_in and W_out a bias.
        conv_bias: give the convolution one.
        norm_eps: of the two RMS norms.

    The defaults are the paper's.

    Raises:
        ValueError: a size under 1, or one that does not divide what it has to.

    Source: T. Dao and A. Gu, "Transformers are SSMs: generalized models and efficient algorithms through
    structured state space duality", 2024.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        groups: int = 1,
        *,
        bias: bool = False,
        conv_bias: bool = True,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_sizes(
            dim=dim, d_state=d_state, d_conv=d_conv, expand=expand, head_dim=head_dim, groups=groups
        )
        inner = expand * dim
        if inner % head_dim or (inner // head_dim) % groups:
            raise ValueError(
                f"head_dim and groups are {head_dim} and {groups}; head_dim must divide expand · dim = "
                f"{inner}, and groups the number of heads."
            )
        self.dim = dim
        self.d_state = d_state
        self.head_dim = head_dim
        self.groups = groups
        self.heads = inner // head_dim
        self.norm = RMSNorm(dim, eps=norm_eps)
        convolved = inner + 2 * groups * d_state
        self.in_proj = nn.Linear(dim, inner + convolved + self.heads, bias=bias)
        self.conv1d = CausalConv1d(convolved, d_conv, bias=conv_bias)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.gate_norm = RMSNorm(inner, eps=norm_eps)
        self.out_proj = nn.Linear(inner, dim, bias=bias)
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True

    def forward(self, x: Tensor, state: SSMState | None = None) -> tuple[Tensor, SSMState]:
        """Run the block over ``x`` ``[B, T, dim]``.

        Args:
            x: the input.
            state: ``conv`` ``[B, d_conv - 1, expand · dim + 2 · groups · d_state]``, ``ssm``
                ``[B, heads, head_dim, d_state]``; zeros if None.

        Returns:
            ``(out, state)``: out like x, and the state after the last step.
        """
        z, mixed, dt = self._projected(x)
        mixed, tail = self.conv1d(mixed, None if state is None else state.conv)
        q, k, v = self._by_head(mixed)
        log_decay, dt = self._decay(dt)
        initial = None if state is None else state.ssm
        y, final = hebbian_scan(q, k, v, log_decay, dt, initial_state=initial)
        return x + self._gated(y, v, z), SSMState(tail, final)

    def step(self, x: Tensor, state: SSMState) -> tuple[Tensor, SSMState]:
        """One step for decoding, x ``[B, dim]``, under ``no_grad``: overwrites ``state`` and returns it."""
        z, mixed, dt = self._projected(x)
        q, k, v = self._by_head(self.conv1d.step(mixed, state.conv))
        log_decay, dt = self._decay(dt)
        y = hebbian_scan_step_(q, k, v, log_decay, dt, "hebb", state.ssm)
        return x + self._gated(y, v, z), state

    def init_state(self, batch: int) -> SSMState:
        """The zero state of ``batch`` sequences."""
        weight = self.conv1d.weight
        conv = weight.new_zeros(batch, weight.shape[2] - 1, weight.shape[0])
        return SSMState(conv, state_like(self.A_log, batch, self.heads, self.head_dim, self.d_state))

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        inner = self.heads * self.head_dim
        projected = self.in_proj(normed(self.norm, x))
        return projected.split([inner, self.conv1d.in_channels, self.heads], dim=-1)

    def _by_head(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # C reads as a query does, B writes as a key does.
        grouped = self.groups * self.d_state
        v, B, C = F.silu(mixed).split([self.heads * self.head_dim, grouped, grouped], dim=-1)
        q, k = (
            tensor.unflatten(-1, (self.groups, self.d_state)).repeat_interleave(
                self.heads // self.groups, dim=-2
            )
            for tensor in (C, B)
        )
        return q, k, v.unflatten(-1, (self.heads, self.head_dim))

    def _decay(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        dt = F.softplus(at_least_float32(dt) + self.dt_bias)
        return -dt * torch.exp(at_least_float32(self.A_log)), dt

    def _gated(self, y: Tensor, v: Tensor, z: Tensor) -> Tensor:
        y = (y + self.D.unsqueeze(-1) * v).flatten(-2) * F.silu(z)
        norm = self.gate_norm
        by_group = y.to(norm.weight.dtype).unflatten(-1, (self.groups, -1))
        y = F.rms_norm(by_group, by_group.shape[-1:], eps=norm.eps).flatten(-2)
        return self.out_proj(y * norm.weight)

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, d_state={self.d_state}, heads={self.heads} of {self.head_dim}, groups={self.groups}"
        )
