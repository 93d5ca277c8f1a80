"""The origin's memory, read without a temperature."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import PhaseLinear
from ..interfaces import Memory
from ..memories.top_k import read_top_k
from ..registry import register_memory
from .frame import OriginalNorm


@register_memory("original_slots", description="the origin's, nearly even over the best 64")
class OriginalSlotMemory(Memory):
    """``L norm(Σ_n softmax_n(coh(q, K_n)) V_n)`` over the top k slots, ``q = L z``."""

    def __init__(self, dim: int, slots: int = 2048, top_k: int = 64) -> None:
        super().__init__()
        self.top_k = top_k
        self.query = PhaseLinear(dim, dim)
        self.keys = nn.Parameter(0.02 * torch.randn(slots, dim, 2))
        self.values = nn.Parameter(0.02 * torch.randn(slots, dim, 2))
        self.norm = OriginalNorm(dim)
        self.output = PhaseLinear(dim, dim)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        queries = F.normalize(self.query(x).flatten(0, -3).flatten(1), dim=-1)
        keys = F.normalize(self.keys.flatten(1), dim=-1)
        read = read_top_k(queries, keys, self.values.flatten(1), keys.new_ones(()), self.top_k)
        return self.output(self.norm(read.view(x.shape))), state
