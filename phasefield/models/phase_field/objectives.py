"""Terms of the loss, all of them scalars that stay on the device."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers import linear_cross_entropy, phase_coherence
from .interfaces import Objective, Outcome
from .registry import register_objective


def _wide(x: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@register_objective("cross_entropy", description="of the next token; `content` among the loss's terms")
class CrossEntropy(Objective):
    """Mean cross-entropy of the targets, in nats a token."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def forward(self, outcome: Outcome) -> Tensor:
        return linear_cross_entropy(outcome.readout.flatten(-2), outcome.head.flatten(1), outcome.targets)


@register_objective("coherence", description="neighbouring states point alike")
class Coherence(Objective):
    """``mean (1 − coherence(z_t, z_{t+1}))`` of the stream before the readout; 0 for a single step."""

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__(weight)

    def forward(self, outcome: Outcome) -> Tensor:
        z = outcome.hidden
        if z.shape[1] < 2:
            return _wide(z.new_zeros(()))
        return (1 - phase_coherence(_wide(z[:, :-1]), _wide(z[:, 1:]))).mean()


@register_objective("energy", description="numbers have length 1")
class Energy(Objective):
    """``mean (|z| − 1)²`` of the stream before the readout, with ``|z| = √(re² + im² + 1e-8)``."""

    def __init__(self, weight: float = 0.001) -> None:
        super().__init__(weight)

    def forward(self, outcome: Outcome) -> Tensor:
        lengths = (_wide(outcome.hidden).square().sum(-1) + 1e-8).sqrt()
        return (lengths - 1).square().mean()


def pairwise_coherence(parts: list[Tensor]) -> Tensor | None:
    """Mean coherence over a text of every pair of banks' parts, ``[B, pairs]``; None for a single bank."""
    if len(parts) < 2:
        return None
    unit = F.normalize(_wide(torch.stack(parts, dim=1)).flatten(-2), dim=-1)  # [B, K, T, 2D]
    # Coherence of rows of unit length is their product: [K, K] means over tokens, its upper triangle.
    flat = unit.flatten(2)
    means = flat @ flat.mT / unit.shape[2]
    first, second = torch.triu_indices(len(parts), len(parts), offset=1, device=means.device)
    return means[:, first, second]


@register_objective("coupling", description="banks neither collapse into one nor fall apart")
class Coupling(Objective):
    """``0.1 · | mean |c| − ½ | − var(c)`` over a text's mean coherences c of all pairs of banks.

    The origin's later form: its first, minus the mean coherence, is smallest where all banks are the same. Of
    one pair there is no variance; of one bank the term is 0.
    """

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__(weight)

    def forward(self, outcome: Outcome) -> Tensor:
        pairs = pairwise_coherence(outcome.parts)
        if pairs is None:
            return _wide(outcome.hidden.new_zeros(()))
        spread = pairs.var(1) if pairs.shape[1] > 1 else 0.0
        return (0.1 * (pairs.abs().mean(1) - 0.5).abs() - spread).mean()
