"""What just happened, word for word: attention over a sliding window of the strict past."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import PhaseLinear
from ..banks.context import with_past
from ..interfaces import Memory
from ..registry import register_memory


class Window(NamedTuple):
    """The keys and values of the last tokens, ``[B, window, heads, 2 width]`` each."""

    keys: Tensor
    values: Tensor


@register_memory("episodic", description="attention to the last tokens, strictly past")
class EpisodicMemory(Memory):
    """``y_t = L Σ_j p_tj v_j``, ``p_t = softmax_j(Re⟨q_t, k_j⟩ / √(2 width) + b_{t−j})``, 1 ≤ t−j ≤ window.

    Before the beginning stand keys and values of 0, so that the first token reads 0 and early ones less. Cut
    into chunks of a window, each looking at its own and the one before: memory and time are linear in T.

    Args:
        heads: dim must be a multiple of it.
        window: tokens; the origin's default.
    """

    def __init__(self, dim: int, heads: int = 4, window: int = 64) -> None:
        super().__init__()
        if min(heads, window) < 1 or dim % heads:
            raise ValueError(
                f"heads is {heads} and window {window}; each must be at least 1, and heads divide {dim}."
            )
        self.heads, self.window, self.width = heads, window, dim // heads
        self.input = PhaseLinear(dim, 3 * dim)
        self.bias = nn.Parameter(torch.zeros(heads, window))
        self.bias._no_weight_decay = True
        self.output = PhaseLinear(dim, dim)

    def forward(self, x: Tensor, state: Window | None = None) -> tuple[Tensor, Window]:
        batch, length = x.shape[:2]
        window = self.window
        q, k, v = self.input(x).unflatten(-2, (3, self.heads, self.width)).flatten(-2).unbind(2)
        past_keys, past_values = (None, None) if state is None else state
        keys, last_keys = with_past(k, past_keys, window)
        values, last_values = with_past(v, past_values, window)
        final = Window(last_keys, last_values)
        # Chunks of `window` queries, the last filled up; key i of a chunk is i − window from its first query.
        chunks = -(-length // window)
        fill = chunks * window - length
        q = F.pad(q, (0, 0, 0, 0, 0, fill)).view(batch, chunks, window, self.heads, -1)
        keys, values = (
            F.pad(t, (0, 0, 0, 0, 0, fill)).unfold(1, 2 * window, window) for t in (keys, values)
        )  # [B, chunks, heads, 2 width, 2 window]
        scores = torch.einsum("bcqhd,bchdk->bchqk", q, keys) * (2 * self.width) ** -0.5
        scores = scores + self._bias_of_pairs(scores)
        read = torch.einsum("bchqk,bchdk->bcqhd", scores.softmax(-1), values)
        read = read.reshape(batch, chunks * window, self.heads * self.width, 2)[:, :length]
        return self.output(read), final

    def init_state(self, batch: int) -> Window:
        """Nothing has happened: zeros."""
        zeros = self.bias.new_zeros(batch, self.window, self.heads, 2 * self.width)
        return Window(zeros, zeros.clone())

    def _bias_of_pairs(self, scores: Tensor) -> Tensor:
        # [heads, window, 2 window]: by distance of query i and key j − window; −∞ outside 1 … window.
        window = self.window
        query = torch.arange(window, device=scores.device).unsqueeze(1)
        distance = query - (torch.arange(2 * window, device=scores.device) - window)
        outside = (distance < 1) | (distance > window)
        bias = self.bias[:, (distance - 1).clamp(0, window - 1)]
        return bias.masked_fill(outside, -torch.inf).to(scores.dtype)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, width={self.width}"
