"""Causal transformers with learned positions: the key-value cache, and texts longer than the block."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

ExtendLayer = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a layer's number and the keys and values of new tokens; gives those of all tokens so far."""


@dataclass
class DecoderState:
    """What a :class:`CachedDecoder` remembers of the window it is reading.

    Attributes:
        tokens: ``[B, block_size]`` int64, of which ``length`` are read.
        keys: ``[N, B, H, block_size, D / H]``, for each of N attentions.
        values: like keys.
        length: tokens in the window.
    """

    tokens: Tensor
    keys: Tensor
    values: Tensor
    length: int

    def detach(self) -> "DecoderState":
        """The same numbers, cut from the graph."""
        return replace(self, keys=self.keys.detach(), values=self.values.detach())

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values ``[B, H, T, D / H]`` behind those of the window, in place."""
        end = self.length + keys.shape[-2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class _Growing:
    """Extends a state without changing it, so that gradients can pass."""

    def __init__(self, state: DecoderState) -> None:
        self.state = state
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        length = self.state.length
        self.keys.append(torch.cat([self.state.keys[layer, :, :, :length], keys], dim=-2))
        self.values.append(torch.cat([self.state.values[layer, :, :, :length], values], dim=-2))
        return self.keys[-1], self.values[-1]

    def extended(self, tokens: Tensor) -> DecoderState:
        before, length = self.state, self.state.length + tokens.shape[1]
        return DecoderState(
            torch.cat([before.tokens[:, : before.length], tokens, before.tokens[:, length:]], dim=1),
            torch.cat([torch.stack(self.keys), before.keys[..., length:, :]], dim=-2),
            torch.cat([torch.stack(self.values), before.values[..., length:, :]], dim=-2),
            length,
        )


class CachedDecoder(nn.Module):
    """A causal decoder over a block of positions, with its cache as the state.

    A text longer than the block is read in windows that begin half a block apart: a full window is left, the
    last ``block_size // 2`` tokens of it are read again from position 0, and the text goes on behind them. So
    every token past the first block sees at least the half block before it. (Sliding the window by one token
    would need every key computed anew, because positions are absolute; keeping the old keys would give the
    logits of no window at all.) The windows follow from how many tokens were read since the empty state: a
    text read in one piece, in several, or token by token gives the same logits.

    A subclass says how many attentions it has (``num_attentions``, ``num_heads``, ``head_dim``,
    ``block_size``) and reads one window.
    """

    num_attentions: int
    num_heads: int
    head_dim: int
    block_size: int

    @abstractmethod
    def hidden(self, tokens: Tensor, position: int = 0, extend: ExtendLayer | None = None) -> Tensor:
        """Top hidden states ``[B, T, D]`` of ``tokens`` ``[B, T]`` that stand at ``position`` of the block.

        ``extend`` gives each attention what came before; None if nothing did.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., D]`` → ``[..., vocab_size]``."""

    def forward(self, tokens: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Logits ``[B, T, vocab_size]`` of what follows each of ``tokens`` ``[B, T]``, and the state.

        Raises:
            ValueError: ``tokens`` is not ``[B, T]`` with T at least 1.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise ValueError(f"tokens has shape {list(tokens.shape)}; allowed is [B, T] with T at least 1.")
        state = self.init_state(tokens.shape[0]) if state is None else state
        pieces = []
        while tokens.shape[1]:
            state = self._with_room(state)
            room = self.block_size - state.length
            hidden, state = self._read(tokens[:, :room], state)
            pieces.append(hidden)
            tokens = tokens[:, room:]
        return self.logits(torch.cat(pieces, dim=1)), state

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One token ``[B]`` → logits ``[B, vocab_size]``; under ``no_grad``: overwrites ``state``."""
        state = self._with_room(state)
        hidden = self.hidden(token.unsqueeze(1), state.length, state.write)
        state.tokens[:, state.length] = token
        state.length += 1
        return self.logits(hidden[:, 0]), state

    def init_state(self, batch: int) -> DecoderState:
        """An empty cache for ``batch`` sequences; its size does not grow."""
        weight = next(self.parameters())
        shape = (self.num_attentions, batch, self.num_heads, self.block_size, self.head_dim)
        return DecoderState(
            torch.zeros(batch, self.block_size, dtype=torch.long, device=weight.device),
            torch.zeros(shape, dtype=weight.dtype, device=weight.device),
            torch.zeros(shape, dtype=weight.dtype, device=weight.device),
            0,
        )

    def _read(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        growing = _Growing(state)
        hidden = self.hidden(tokens, state.length, growing.extend)
        return hidden, growing.extended(tokens)

    def _with_room(self, state: DecoderState) -> DecoderState:
        if state.length < self.block_size:
            return state
        again = state.tokens[:, self.block_size - self.block_size // 2 :]
        empty = self.init_state(again.shape[0])
        return self._read(again, empty)[1] if again.shape[1] else empty
