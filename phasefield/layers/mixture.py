"""Collapse: many predictors' distributions become one, with weights that learn by a local rule."""

import torch
from torch import Tensor, nn

LEVELS = 24
"""Levels of a predictor's confidence: eight of its evidence times three of its sharpness."""


def confidence_level(evidence: Tensor, outcomes: Tensor) -> Tensor:
    """The level of a predictor's confidence, int64 in [0, 24).

    Args:
        evidence: how much was seen (occurrences, pull), from 0; levels are octaves.
        outcomes: between how many outcomes it is divided; levels are one, two or three, more.
    """
    octave = (evidence.clamp_min(0.5).log2() + 1).round().clamp(0, 7).long()
    spread = (outcomes > 1).long() + (outcomes > 3).long()
    return octave * 3 + spread


class BornMixture(nn.Module):
    """The Born rule for a mixed state: ``p(v) = Σ_c π_c |⟨v|ψ_c⟩|² = Σ_c π_c p_c(v)``.

    ``π = softmax(Σ_h W_h)`` over features h that are one-hot: each predictor's own confidence level, and
    gates that all predictors see. Given the next token, predictor c had the share ``r_c = π_c p_c / Σ π p``
    in it, and the weights of the active features learn by the delta rule

        ``ΔW = η (r − π) ⊗ h``

    which is the exact gradient of the log-likelihood: local, as every layer is read out directly.

    Args:
        predictors: C.
        gates: the number of values of each shared gate.

    >>> mixture, none = BornMixture(2, gates=(1,)), torch.zeros(4, 2, dtype=torch.int64)
    >>> right, gate = torch.tensor([[0.9, 0.1]]).expand(4, 2), none[:, :1]
    >>> before = mixture.learn_(right, none, gate, rate=0.5)
    >>> after = mixture.learn_(right, none, gate, rate=0.5)
    >>> bool((after > before).all()), bool(mixture(none, gate)[0, 0] > 0.5)  # who was right is heard
    (True, True)
    """

    def __init__(self, predictors: int, gates: tuple[int, ...]) -> None:
        super().__init__()
        if predictors < 1 or any(size < 1 for size in gates):
            raise ValueError(f"predictors is {predictors} and gates {gates}; all must be at least 1.")
        self.gates = gates
        self.register_buffer("by_confidence", torch.zeros(predictors * LEVELS))
        self.register_buffer("by_gate", torch.zeros(sum(gates), predictors))
        starts = torch.tensor([0, *gates]).cumsum(0)[:-1]
        self.register_buffer("_gate_starts", starts, persistent=False)
        self.register_buffer("_rows", torch.arange(predictors) * LEVELS, persistent=False)

    def forward(self, confidence: Tensor, gates: Tensor) -> Tensor:
        """Weights π ``[…, C]`` for confidence levels ``[…, C]`` and gate values ``[…, G]``."""
        shared = self.by_gate[gates + self._gate_starts].sum(-2)
        return (self.by_confidence[confidence + self._rows] + shared).softmax(-1)

    def learn_(self, probabilities: Tensor, confidence: Tensor, gates: Tensor, rate: float) -> Tensor:
        """One step of the delta rule, summed over n tokens.

        Args:
            probabilities: ``[n, C]`` that each predictor gave the token that came.
            confidence: ``[n, C]`` levels.
            gates: ``[n, G]`` values.
            rate: η of one token.

        Returns:
            ``[n]``, the log of the mixture's probability before the step.
        """
        weights = self(confidence, gates)
        joint = weights * probabilities
        total = joint.sum(-1, keepdim=True)
        change = joint / total - weights
        predictors, count = change.shape[1], gates.shape[1]
        self.by_confidence.index_add_(0, (confidence + self._rows).flatten(), change.flatten(), alpha=rate)
        shared = change.unsqueeze(1).expand(-1, count, -1).reshape(-1, predictors)
        self.by_gate.index_add_(0, (gates + self._gate_starts).flatten(), shared, alpha=rate)
        return total.squeeze(-1).log()

    def extra_repr(self) -> str:
        return f"{self.by_gate.shape[1]}, gates={self.gates}"
