"""A stack of residual blocks, each around a linear recurrence of complex states."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ....layers import PhaseDropout, PhaseLinear, PhaseRMSNorm, phase_gate
from ....layers.causal_conv import CausalConv1d
from ..interfaces import Backbone


class Recurrence(nn.Module, ABC):
    """A linear recurrence of ``state_dim`` complex numbers, driven by v and steered by u.

    Built as ``Class(dim, state_dim)``.
    """

    @abstractmethod
    def forward(self, v: Tensor, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(h like v, new state)`` of v ``[B, T, state_dim, 2]`` and u ``[B, T, dim, 2]``."""

    @abstractmethod
    def step(self, v: Tensor, u: Tensor, state: Tensor) -> Tensor:
        """One token, for decoding: overwrites the state and returns h."""

    @abstractmethod
    def init_state(self, batch: int) -> Tensor:
        """The zero state."""

    @abstractmethod
    def lengths(self) -> Tensor:
        """``[state_dim]``: the root mean square of each state where v is white noise of length 1."""

    @abstractmethod
    def footprint(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """How long what a token writes lasts, and how much that is; for looking into a model.

        Returns:
            ``(log_decay, written)`` ``[B, T, state_dim]``: the log of what each token leaves of a state's
            length, and the length of what it adds to it, up to a factor a state.
        """


class BlockState(NamedTuple):
    """What a block carries: the convolution's last inputs ``[B, taps − 1, 2 dim]``, and the recurrence's."""

    conv: Tensor
    recurrence: Tensor


class Block(nn.Module):
    """A residual block around a recurrence h of v.

        ``x ← x + C gate(norm(h) + d · v, o)``,
        ``v = modReLU(norm(v'))``,  ``[v'; o] = B u``,  ``u_t = Σ_k w_k norm(x)_{t-k} + b``

    The gate o, a complex number a state, shortens and turns what is read; d is learned, 1 at the start. The
    short convolution lets values and gates be those of a token and its neighbours before the recurrence sums
    them up; its taps are real, each part's its own, and start as Mamba's do.

    Args:
        dim, state_dim: complex channels, and states.
        recurrence: the recurrence.
        gain: of C's first length.
        dropout: of complex numbers of what is added to x.
    """

    TAPS = 4
    """Of the convolution; Mamba's."""
    THRESHOLD = -0.1
    """modReLU's at the start: of numbers of mean square 1 it silences a hundredth, and it shortens others."""

    def __init__(
        self, dim: int, state_dim: int, recurrence: Recurrence, *, gain: float, dropout: float
    ) -> None:
        super().__init__()
        self.norm = PhaseRMSNorm(dim)
        self.conv = CausalConv1d(2 * dim, self.TAPS)
        self.input = PhaseLinear(dim, 2 * state_dim)
        self.value_norm = PhaseRMSNorm(state_dim, threshold=self.THRESHOLD)
        self.recurrence = recurrence
        self.state_norm = PhaseRMSNorm(state_dim)
        with torch.no_grad():
            # Slow states are short: at the start all of them are read with one length.
            lengths = recurrence.lengths()
            self.state_norm.weight.copy_(lengths.square().mean().sqrt() / lengths)
        self.skip = nn.Parameter(torch.ones(state_dim, 1))
        self.skip._no_weight_decay = True
        self.output = PhaseLinear(state_dim, dim, gain=gain)
        self.dropout = PhaseDropout(dropout)

    def forward(self, x: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        tail, past = (None, None) if state is None else state
        u, tail = self.conv(self.norm(x).flatten(-2), tail)
        u, v, gate = self._driven(u)
        h, last = self.recurrence(v, u, past)
        return self._mixed(x, v, h, gate), BlockState(tail, last)

    def step(self, x: Tensor, state: BlockState) -> Tensor:
        """One token, for decoding: overwrites the state."""
        u, v, gate = self._driven(self.conv.step(self.norm(x).flatten(-2), state.conv))
        return self._mixed(x, v, self.recurrence.step(v, u, state.recurrence), gate)

    def init_state(self, batch: int) -> BlockState:
        """Zeros."""
        tail = self.conv.weight.new_zeros(batch, self.TAPS - 1, self.conv.in_channels)
        return BlockState(tail, self.recurrence.init_state(batch))

    def _driven(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = u.unflatten(-1, (-1, 2))
        v, gate = self.input(u).chunk(2, dim=-2)
        return u, self.value_norm(v), gate

    def _mixed(self, x: Tensor, v: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        # Repeated, d is as wide as the numbers it multiplies: torch takes half the time, back a third.
        read = phase_gate(torch.addcmul(self.state_norm(h), v, self.skip.repeat(1, 2)), gate)
        if self.dropout.p == 0:
            return self.output(read, residual=x)
        return x + self.dropout(self.output(read))


class Stack(Backbone):
    """Blocks one above the other, and a norm on what leaves them.

    Args:
        dim: complex channels.
        num_layers: blocks.
        dropout: see :class:`Block`.
        state_dim: complex states a block; twice the channels if None, as the origin has it.
    """

    recurrence: type[Recurrence]

    def __init__(self, dim: int, num_layers: int, dropout: float = 0.0, state_dim: int | None = None) -> None:
        super().__init__()
        state_dim = 2 * dim if state_dim is None else state_dim
        if state_dim < 1:
            raise ValueError(f"state_dim is {state_dim}; it must be at least 1.")
        # Every block adds to the stream: shorter outputs keep its length as in GPT-2.
        gain = (2 * num_layers) ** -0.5
        self.blocks = nn.ModuleList(
            Block(dim, state_dim, self.recurrence(dim, state_dim), gain=gain, dropout=dropout)
            for _ in range(num_layers)
        )
        self.norm = PhaseRMSNorm(dim)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[BlockState, ...]]:
        """``[B, T, dim, 2]`` → the same, and each block's state."""
        finals = []
        for number, block in enumerate(self.blocks):
            x, final = block(x, None if state is None else state[number])
            finals.append(final)
        return self.norm(x), tuple(finals)

    def step(self, x: Tensor, state: tuple[BlockState, ...]) -> tuple[Tensor, tuple[BlockState, ...]]:
        for block, of_block in zip(self.blocks, state, strict=True):
            x = block.step(x, of_block)
        return self.norm(x), state

    def init_state(self, batch: int) -> tuple[BlockState, ...]:
        return tuple(block.init_state(batch) for block in self.blocks)


def at_least_float32(parameter: Tensor) -> Tensor:
    """The parameter in the dtype of states: float32, or float64 in a float64 module."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
