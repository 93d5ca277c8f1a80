"""Dense states as a predictor: a crystal leads each to the next, a read-out says which token that is."""

from typing import Literal

from torch import Tensor, nn

from .local import HebbianCrystal, LocalReadout

_BLOCK = 512
"""States whose changes are summed before the next ones see them."""


class StateReadout(nn.Module):
    """``p = softmax(R (ψ + W ψ))`` with a :class:`HebbianCrystal` W and a :class:`LocalReadout` R.

    Args:
        dim: D, of the states, which have unit length.
        vocab_size: outcomes.
        rule: of the crystal.

    >>> import torch
    >>> readout, states = StateReadout(3, 3, "delta"), torch.eye(3).repeat(50, 1)
    >>> targets = torch.arange(150) % 3
    >>> for _ in range(60):
    ...     readout.learn_(states, states.roll(-1, 0), targets, rate=0.5)
    >>> readout(torch.eye(3)).argmax(-1).tolist()
    [0, 1, 2]
    """

    def __init__(self, dim: int, vocab_size: int, rule: Literal["hebb", "delta", "oja"]) -> None:
        super().__init__()
        self.crystal = HebbianCrystal(dim, rule)
        self.readout = LocalReadout(dim, vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """Probabilities ``[…, V]`` of what follows states ``[…, D]``."""
        return self.readout(self.crystal(states)).softmax(-1)

    def learn_(self, states: Tensor, following: Tensor, targets: Tensor, rate: float) -> None:
        """A step a block of 512, in their order: first the read-out, then the crystal.

        Args:
            states: ``[n, D]``.
            following: ``[n, D]``, the states they should lead to.
            targets: ``[n]``, the tokens that followed.
            rate: η of the read-out for one state whose components all have length 1; those of a unit vector
                are shorter, and η is multiplied by D.
        """
        blocks = zip(*(rows.split(_BLOCK) for rows in (states, following, targets)), strict=True)
        for now, then, tokens in blocks:
            self.readout.learn_(self.crystal(now), tokens, rate * now.shape[1])
            self.crystal.learn_(now, then)
