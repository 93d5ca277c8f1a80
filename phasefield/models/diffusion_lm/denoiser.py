"""The network that guesses the text's embeddings through the noise."""

import math

import torch
from torch import Tensor, nn

from ..transformer import TransformerBlock


class Denoiser(nn.Module):
    """A bidirectional transformer ``ĉ = f(x_t, ĉ before, t)``, ĉ and x ``[B, T, embed_dim]``.

    ``[x_t; ĉ before]`` is projected to the hidden width; the embedded time (an MLP of sines and cosines of t)
    is added; pre-norm blocks, whose attention knows the positions, a norm and a projection back follow.
    Places that are known hold their embeddings without noise, and a vector that says so.

    Args:
        embed_dim: width of the token embeddings.
        hidden_dim, num_layers, num_heads, dropout: of the blocks.
    """

    def __init__(
        self, embed_dim: int, hidden_dim: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input = nn.Linear(2 * embed_dim, hidden_dim)
        self.known = nn.Parameter(0.02 * torch.randn(hidden_dim))
        self.time = nn.Sequential(
            nn.Linear(hidden_dim, 4 * hidden_dim), nn.SiLU(), nn.Linear(4 * hidden_dim, hidden_dim)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_dim, num_heads, dropout, causal=False, norm_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x: Tensor, before: Tensor, t: Tensor, known: Tensor) -> Tensor:
        """The clean embeddings, guessed from what is seen of them.

        Args:
            x: noised by t steps, except where known.
            before: an earlier guess, zeros if there is none.
            t: int64 ``[B]``.
            known: bool ``[B, T]``.
        """
        hidden = self.input(torch.cat([x, before], dim=-1))
        time = self.time(self._waves(t).to(self.norm.weight.dtype)).unsqueeze(1)
        hidden = hidden + time + known.unsqueeze(-1) * self.known
        for block in self.blocks:
            hidden = block(hidden)
        return self.output(self.norm(hidden)).to(x.dtype)

    def _waves(self, t: Tensor) -> Tensor:
        # Of the first transformer: wavelengths from 2π to 10,000 · 2π steps.
        half = (self.hidden_dim + 1) // 2
        rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / half))
        angles = t.unsqueeze(-1) * rates
        return torch.cat([angles.cos(), angles.sin()], dim=-1)[:, : self.hidden_dim]
