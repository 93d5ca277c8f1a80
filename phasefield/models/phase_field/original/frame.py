"""What the origin's parts have in common: its norm, its inner layers, its readout, its initialisation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....layers import PhaseEmbedding, PhaseLinear


def modulus(z: Tensor) -> Tensor:
    """``√(re² + im² + 1e-8)``."""
    return (z.square().sum(-1) + 1e-8).sqrt()


class OriginalNorm(nn.Module):
    """Layer norm of moduli: ``(z/|z|) · w (m − mean m) / √(var m + 1e-6)``, ``m = |z|``.

    Numbers shorter than the mean, about half of them, come out turned by half a turn.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, z: Tensor) -> Tensor:
        m = modulus(z)
        centred = m - m.mean(-1, keepdim=True)
        length = self.weight * centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        return z * (length / m).unsqueeze(-1)


class OriginalTrunk(nn.Module):
    """``h ← h + 0.1 GELU(Re a) a`` with ``a = L norm(h)``, twice; then ``L norm(h)``."""

    def __init__(self, dim: int, layers: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(OriginalNorm(dim) for _ in range(layers + 1))
        self.layers = nn.ModuleList(PhaseLinear(dim, dim) for _ in range(layers))
        self.output = PhaseLinear(dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        *norms, last = self.norms
        for norm, layer in zip(norms, self.layers, strict=True):
            a = layer(norm(h))
            h = h + 0.1 * F.gelu(a[..., :1]) * a
        return self.output(last(h))


class OriginalReadout(nn.Module):
    """``norm(L z)`` with the origin's norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = PhaseLinear(dim, dim)
        self.norm = OriginalNorm(dim)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.linear(z))


@torch.no_grad()
def origin_initialised(module: nn.Module) -> None:
    """N(0, 0.02²) for linear maps and embeddings, 0 for biases: the origin's last word on every weight."""
    if isinstance(module, PhaseLinear | PhaseEmbedding | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
