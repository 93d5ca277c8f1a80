"""The linear sibling of the Landauer cell: a gated golden rotation over time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import oscillatory_scan, oscillatory_scan_step_

from .dropout import dropout
from .phases import layer_phases
from .rms_norm import RMSNorm


class AperiodicLRU(nn.Module):
    """A residual block around a linear recurrence whose units turn by multiples of the golden angle.

        ``g_t = σ(G norm(x_t) + b)``
        ``z_t = (1 − g_t) ⊙ e^{iθ} z_{t-1} + g_t ⊙ B norm(x_t)``      complex ``[state_dim]``, the scan
        ``y_t = GELU(Re(C z_t) + D ⊙ norm(x_t))``,    ``out_t = x_t + V y_t ⊙ σ(U y_t)``

    with ``θ_j = j · golden angle / phase_scaling^layer``, fixed. A token decides by ``g_t`` how much of the
    past it replaces; all that is nonlinear in the state stands outside the time loop. Phases are 64-bit
    integers, so ``module.bfloat16()`` leaves them exact.

    Args:
        dim: width of input and output.
        state_dim: complex units of the state; dim // 2 if None, so that the state holds dim real numbers.
        layer: l, the block's place in a stack, which divides its angles by ``phase_scaling^l``.
        phase_scaling: s; 2.0 as in the aperiodic cell.
        min_radius, max_radius: the squares of ``1 − σ(b)`` start uniform between theirs; by default memories
            of 10 to 1000 tokens.
        dropout: probability of dropping a number in training: of ``norm(x_t)``, before the last gate and
            after it.

    Source: the block of A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences",
    2023 (LRU), with the angles of Landauer LLM and the update gate of L. Feng et al., "Were RNNs all we
    needed?", 2024 (minGRU).
    """

    def __init__(
        self,
        dim: int,
        state_dim: int | None = None,
        *,
        layer: int = 0,
        phase_scaling: float = 2.0,
        min_radius: float = 0.9,
        max_radius: float = 0.999,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        state_dim = max(1, dim // 2) if state_dim is None else state_dim
        if min(dim, state_dim) < 1:
            raise ValueError(f"dim and state_dim are {dim} and {state_dim}; each must be at least 1.")
        if not 0 < min_radius <= max_radius < 1:
            raise ValueError(
                f"min_radius and max_radius are {min_radius} and {max_radius}; they must satisfy "
                "0 < min_radius <= max_radius < 1."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1.")
        self.dim = dim
        self.state_dim = state_dim
        self.layer = layer
        self.phase_scaling = phase_scaling
        self.norm = RMSNorm(dim)
        self.input = nn.Linear(dim, 2 * state_dim, bias=False)
        self.update = nn.Linear(dim, state_dim)
        squares = torch.rand(state_dim) * (max_radius**2 - min_radius**2) + min_radius**2
        with torch.no_grad():
            self.update.bias.copy_(-torch.logit(squares.sqrt()))
        self.output = nn.Linear(2 * state_dim, dim, bias=False)
        self.skip = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, 2 * dim)
        self.dropout = dropout
        self.register_buffer("phases", layer_phases(state_dim, phase_scaling, layer), persistent=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the block over ``x`` ``[B, T, dim]``.

        Args:
            x: the input.
            state: ``[B, state_dim, 2]`` float32, zeros if None.

        Returns:
            ``(out, state)``: out like x, and the state after the last step.
        """
        normed = self._drop(self.norm(x))
        inputs = self.input(normed).unflatten(-1, (-1, 2))
        z, state = oscillatory_scan(inputs, self.update(normed), self.phases, None, state)
        return self._mix(x, normed, z), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step for decoding, x ``[B, dim]``, under ``no_grad``: overwrites ``state`` and returns it."""
        normed = self.norm(x)
        inputs = self.input(normed).unflatten(-1, (-1, 2))
        z = oscillatory_scan_step_(inputs, self.update(normed), self.phases, None, state)
        return self._mix(x, normed, z), state

    def init_state(self, batch: int) -> Tensor:
        """The zero state ``[batch, state_dim, 2]``, float32 (float64 for a float64 module)."""
        dtype = torch.float64 if self.skip.dtype == torch.float64 else torch.float32
        return torch.zeros(batch, self.state_dim, 2, dtype=dtype, device=self.skip.device)

    def _mix(self, x: Tensor, normed: Tensor, z: Tensor) -> Tensor:
        y = self._drop(F.gelu(self.output(z.flatten(-2)) + self.skip * normed))
        return x + self._drop(F.glu(self.gate(y)))

    def _drop(self, y: Tensor) -> Tensor:
        return dropout(y, self.dropout, self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, {self.state_dim}, layer={self.layer}, phase_scaling={self.phase_scaling}, "
            f"dropout={self.dropout}"
        )
