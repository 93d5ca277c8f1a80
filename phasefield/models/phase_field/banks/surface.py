"""How words are formed and written, from tokens that are pieces of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import cayley, phase_product
from ..interfaces import Bank
from ..registry import register_bank
from .context import with_past
from .trunk import Trunk, entry


@register_bank("morphology", description="each piece of a word turned by the piece before it")
class MorphologyBank(Bank):
    """``h_t = cayley(A x_{t-1}) · x_t``: a piece of a word turned by the piece before it; then the trunk.

    An affix is a rotation of its root: A, real and linear, says by how much each channel turns, from the
    piece before. It starts small, near the identity; before the beginning nothing turns.
    """

    def __init__(self, model_dim: int, dim: int) -> None:
        super().__init__(dim)
        self.entry = entry(model_dim, dim)
        self.affix = nn.Linear(2 * dim, dim, bias=False)
        nn.init.normal_(self.affix.weight, std=0.1 * dim**-0.5)
        self.trunk = Trunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        extended, state = with_past(x, state, 1)
        turn = cayley(self.affix(extended[:, :-1].flatten(-2)))
        return self.trunk(phase_product(x, turn.to(x.dtype))), state

    def init_state(self, batch: int) -> Tensor:
        """The piece before, zeros ``[batch, 1, dim, 2]``."""
        return self.affix.weight.new_zeros(batch, 1, self.dim, 2)


@register_bank("orthography", description="runs of symbols as they are written, by their hash")
class OrthographyBank(Bank):
    """``h_t = x_t + Σ_n E_n[hash(tokens t−n+1 … t)]`` over runs of 2 to ``longest`` tokens; then the trunk.

    Sees the symbols themselves and not their meaning: for a character vocabulary these are spellings. Runs
    share the rows of a table; the trunk tells apart what a collision mixes.

    Args:
        longest: tokens a run.
        buckets: rows a table, a power of two.
    """

    def __init__(self, model_dim: int, dim: int, longest: int = 3, buckets: int = 1024) -> None:
        super().__init__(dim)
        if longest < 2:
            raise ValueError(f"longest is {longest}; a run has at least 2 tokens.")
        if buckets < 1 or buckets & (buckets - 1):
            raise ValueError(f"buckets is {buckets}; it must be a power of two.")
        self.longest, self.buckets = longest, buckets
        self.entry = entry(model_dim, dim)
        self.runs = nn.Parameter(0.5 * torch.randn((longest - 1) * buckets, dim, 2))
        self.trunk = Trunk(dim)

    def forward(self, x: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.entry(x)
        length = tokens.shape[1]
        extended, state = with_past(tokens + 1, state, self.longest - 1)  # 0 stands before the beginning
        mixed = extended[:, self.longest - 1 :]
        table = self.runs.flatten(1)
        for distance in range(1, self.longest):
            begin = self.longest - 1 - distance
            # An odd multiplier (2^64 over the golden ratio); int64 wraps round. High bits are the mixed ones.
            mixed = (mixed ^ (extended[:, begin : begin + length] + distance)) * -7046029254386353131
            rows = ((mixed >> 40) & (self.buckets - 1)) + (distance - 1) * self.buckets
            x = x + F.embedding(rows, table).unflatten(-1, (-1, 2))
        return self.trunk(x), state

    def init_state(self, batch: int) -> Tensor:
        """The last tokens, int64 zeros ``[batch, longest − 1]``."""
        return torch.zeros(batch, self.longest - 1, dtype=torch.int64, device=self.runs.device)

    def extra_repr(self) -> str:
        return f"longest={self.longest}, buckets={self.buckets}"
