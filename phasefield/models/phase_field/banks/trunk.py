"""What every bank does with its first view."""

from torch import Tensor, nn

from ....layers import PhaseLinear, PhaseRMSNorm

THRESHOLD = -0.5
"""modReLU's at the start: of numbers of mean square 1 it silences a fifth, and it shortens the others."""


class Trunk(nn.Module):
    """Residual layers ``h ← h + modReLU(L norm(h))``, then ``L norm(h)``.

    Args:
        dim: complex channels.
        layers: residual ones; the origin has two.
    """

    def __init__(self, dim: int, layers: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(PhaseRMSNorm(dim) for _ in range(layers + 1))
        self.layers = nn.ModuleList(PhaseLinear(dim, dim, threshold=THRESHOLD) for _ in range(layers))
        self.output = PhaseLinear(dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        """``[…, dim, 2]`` → the same."""
        *norms, last = self.norms
        for norm, layer in zip(norms, self.layers, strict=True):
            h = layer(norm(h), residual=h)
        return self.output(last(h))


def entry(model_dim: int, dim: int) -> nn.Module:
    """From the model's channels to the bank's: nothing where they are as many."""
    return nn.Identity() if model_dim == dim else PhaseLinear(model_dim, dim)
