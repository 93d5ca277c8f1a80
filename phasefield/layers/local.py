"""Dense layers that learn by local rules: a crystal between states, a read-out to tokens."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from phasefield_kernels import hebbian_update_

from .golden import PHI


class LocalReadout(nn.Module):
    """A linear read-out ``softmax(W h)`` that learns by its own delta rule.

        ``ΔW = η ⟨(onehot(y) − p) ⊗ h⟩``

    That is the exact gradient of the cross-entropy of a linear head, and needs nothing from other layers.

    Args:
        dim: width of h.
        vocab_size: outcomes.

    >>> readout, h, y = LocalReadout(3, 3), torch.eye(3), torch.tensor([2, 0, 1])
    >>> losses = [float(readout.learn_(h, y, rate=3.0)) for _ in range(50)]
    >>> round(losses[0], 3), losses[-1] < 0.1, readout(h).argmax(-1).tolist()
    (1.099, True, [2, 0, 1])
    """

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(vocab_size, dim))

    def forward(self, h: Tensor) -> Tensor:
        """Logits ``[…, V]`` of states ``[…, dim]``."""
        return h @ self.weight.T

    def learn_(self, h: Tensor, targets: Tensor, rate: float, decay: float = 1.0) -> Tensor:
        """One step on states ``[n, dim]`` and what followed, ``[n]``; the mean cross-entropy before it."""
        log_p = self(h).log_softmax(-1)
        error = -log_p.exp()
        error[torch.arange(len(h), device=h.device), targets] += 1
        hebbian_update_(self.weight, error, h, rate, decay)
        return nn.functional.nll_loss(log_p, targets)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class HebbianCrystal(nn.Module):
    """A matrix between states of a field, ``ψ + W ψ``, that crystallises what follows what.

    Rules, with ``x`` a state and ``y`` the state it should lead to (the code of the next token):

    - ``hebb``: ``ΔW = η ⟨y xᵀ⟩``
    - ``delta``: ``ΔW = η ⟨(y − W x) xᵀ⟩``, which stops when W leads from x to y
    - ``oja``: ``ΔW_n = η ⟨z_n (x − z_n W_n)⟩`` with ``z = W x``, for which y is not read

    each over the mean ``⟨|x|²⟩``, so that η has no unit: the delta rule is stable for η < 2, whatever the
    states' length. After each step W's largest singular value, followed by power iteration (two products
    with a vector a step), is kept under a bound.

    Args:
        dim: D.
        rule: see above.
        rate: η; 1/φ is the origin's.
        decay: λ, what each step leaves of W; the origin's is 1 − η/10.
        bound: of the largest singular value.

    Source: D. Hebb, 1949; E. Oja, "Simplified neuron model as a principal component analyzer", 1982;
    B. Widrow and M. Hoff, "Adaptive switching circuits", 1960.

    >>> crystal, x = HebbianCrystal(3), torch.eye(3)
    >>> for _ in range(40):
    ...     crystal.learn_(x, x.roll(1, 0))
    >>> torch.allclose(crystal(x) - x, x.roll(1, 0), atol=1e-3)  # W leads from each state to the next
    True
    """

    def __init__(
        self,
        dim: int,
        rule: Literal["hebb", "delta", "oja"] = "delta",
        *,
        rate: float = 1 / PHI,
        decay: float = 1.0,
        bound: float = 1.5,
    ) -> None:
        super().__init__()
        if rule not in ("hebb", "delta", "oja"):
            raise ValueError(f"rule is {rule!r}; allowed are 'hebb', 'delta' and 'oja'.")
        for name, value in (("rate", rate), ("bound", bound)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0 and finite.")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; it must be from 0 to 1.")
        self.rule, self.rate, self.decay, self.bound = rule, rate, decay, bound
        # Oja's rule has a fixed point at 0, which it must not start from.
        weight = torch.eye(dim) * 0.1 if rule == "oja" else torch.zeros(dim, dim)
        self.register_buffer("weight", weight)
        self.register_buffer("direction", torch.full((dim,), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """``x + W x`` for ``[…, D]``."""
        return x + x @ self.weight.T

    def learn_(self, x: Tensor, y: Tensor) -> None:
        """One step on states ``[n, D]`` and what they should lead to, ``[n, D]``."""
        rate = self.rate / float(x.square().sum(-1).mean().clamp_min(1e-12))
        if self.rule == "oja":
            hebbian_update_(self.weight, x @ self.weight.T, x, rate, self.decay, "oja")
        else:
            post = y if self.rule == "hebb" else y - x @ self.weight.T
            hebbian_update_(self.weight, post, x, rate, self.decay)
        excess = float(self.spectral_norm()) / self.bound
        if excess > 1:
            self.weight /= excess

    def spectral_norm(self) -> Tensor:
        """The largest singular value, as far as power iteration has come: from below, a scalar."""
        image = self.weight @ self.direction
        back = self.weight.T @ image
        length = back.norm()
        if length > 0:
            self.direction.copy_(back / length)
        return (self.weight @ self.direction).norm()

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, rule={self.rule!r}, rate={self.rate:.3g}, decay={self.decay:.3g}"
