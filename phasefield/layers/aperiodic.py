"""The Landauer cell as a drop-in recurrent layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import aperiodic_scan, aperiodic_scan_step_

from .phases import layer_phases


class AperiodicRNN(nn.Module):
    """A stack of aperiodic recurrent layers, used as :class:`torch.nn.RNN` with batch first.

    Layer l of ``num_layers`` computes, for unit j,

        ``h_t[j] = tanh((W_l x_t + b_l)[j] + c_l[j] · h_{t-1}[j] · cos(ω_l j + h_{t-1}[j]))``

    with ``ω_l = golden angle / phase_scaling^l``, and ``x_t`` the input or the
    layer below. There is no matrix between hidden units: a unit sees its own past only. The phases are
    multiples of an irrational angle, reduced modulo 2π as 64-bit integers, so ``module.bfloat16()``
    leaves them exact.

    Args:
        input_dim: width of the input.
        hidden_dim: units a layer.
        num_layers: layers in the stack.
        phase_scaling: s; each layer's angle is the one below divided by it. 2.0 is the origin's default.
        bound_scale: keep ``|c| < 1`` as ``c = tanh(hidden_scale)``. Unbounded (the origin's form), training
            can push units beyond 1, where they may turn chaotic.

    The projections start as :class:`torch.nn.Linear` does, c at 1 (at tanh 2 = 0.96 if bounded).

    Source: Landauer LLM, "aperiodic phase-space RNN".
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int = 1,
        *,
        phase_scaling: float = 2.0,
        bound_scale: bool = False,
    ) -> None:
        super().__init__()
        if min(input_dim, hidden_dim, num_layers) < 1:
            raise ValueError(
                f"input_dim, hidden_dim and num_layers are {input_dim}, {hidden_dim} and {num_layers}; "
                "each must be at least 1."
            )
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.phase_scaling = phase_scaling
        self.bound_scale = bound_scale
        widths = [input_dim] + [hidden_dim] * (num_layers - 1)
        self.projections = nn.ModuleList(nn.Linear(width, hidden_dim) for width in widths)
        self.hidden_scale = nn.Parameter(torch.full((num_layers, hidden_dim), 2.0 if bound_scale else 1.0))
        phases = [layer_phases(hidden_dim, phase_scaling, layer) for layer in range(num_layers)]
        self.register_buffer("phases", torch.stack(phases), persistent=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the stack over ``x`` ``[B, T, input_dim]``.

        Args:
            x: the input.
            state: ``[num_layers, B, hidden_dim]`` float32, zeros if None.

        Returns:
            ``(h, state)``: the top layer's ``[B, T, hidden_dim]`` and the last state of every layer.
        """
        return self.forward_projected(self.projections[0](x), state)

    def forward_projected(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, from the first layer's projection ``u = W_0 x + b_0`` ``[B, T, hidden_dim]``.

        For inputs that repeat (an embedding of few tokens) it is cheaper to project each once and gather.
        """
        scales = self._scales()
        finals = []
        h = u
        for layer, projection in enumerate(self.projections):
            u = h if layer == 0 else projection(h)
            initial = None if state is None else state[layer]
            h, final = aperiodic_scan(u, scales[layer], self.phases[layer], initial)
            finals.append(final)
        return h, torch.stack(finals)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step for decoding, under ``torch.no_grad()``: overwrites ``state`` and returns it.

        Args:
            x: ``[B, input_dim]``.
            state: ``[num_layers, B, hidden_dim]`` float32.

        Returns:
            ``(h, state)``: the top layer's ``[B, hidden_dim]``.
        """
        scales = self._scales()
        h = x
        for layer, projection in enumerate(self.projections):
            h = aperiodic_scan_step_(projection(h), scales[layer], self.phases[layer], state[layer])
        return h, state

    def init_state(self, batch: int) -> Tensor:
        """The zero state ``[num_layers, batch, hidden_dim]``, float32 (float64 for a float64 module)."""
        dtype = torch.float64 if self.hidden_scale.dtype == torch.float64 else torch.float32
        shape = (self.num_layers, batch, self.hidden_dim)
        return torch.zeros(shape, dtype=dtype, device=self.hidden_scale.device)

    def project_table(self, table: Tensor) -> Tensor:
        """The first layer's projection of every row of an embedding table ``[V, input_dim]``."""
        return F.linear(table, self.projections[0].weight, self.projections[0].bias)

    def _scales(self) -> Tensor:
        return torch.tanh(self.hidden_scale) if self.bound_scale else self.hidden_scale

    def extra_repr(self) -> str:
        return (
            f"{self.input_dim}, {self.hidden_dim}, num_layers={self.num_layers}, "
            f"phase_scaling={self.phase_scaling}, bound_scale={self.bound_scale}"
        )
