"""How much of the signal is left after t steps of noise, and the way back."""

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["sqrt", "cosine"]


class NoiseSchedule:
    """The forward process ``q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)``, t = 0 … T, and its reverse steps.

    ``ᾱ_t = Π_{s ≤ t} (1 − β_s)`` with ``β_s = min(1 − f(s/T) / f((s−1)/T), 0.999)`` and

        cosine: ``f(u) = cos²((u + 0.008) / 1.008 · π/2)``        (Nichol and Dhariwal, 2021)
        sqrt: ``f(u) = 1 − √(u + 10⁻⁴)``        (Li et al., 2022: Diffusion-LM)

    so ``ᾱ_t = f(t/T) / f(0)`` wherever β is not cut, which it is at the last step, and ``ᾱ_0 = 1``.

    Args:
        kind: which of them.
        steps: T, at least 2.

    Attributes:
        kind, steps: as given.
        kept: ᾱ, float64 ``[T + 1]``; computed on the CPU and moved where it is used.
    """

    def __init__(self, kind: Kind, steps: int) -> None:
        self.kind = kind
        self.steps = steps
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        if kind == "cosine":
            f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        elif kind == "sqrt":
            f = 1 - torch.sqrt(u + 1e-4)
        else:
            raise ValueError(f"kind is {kind!r}; it must be 'sqrt' or 'cosine'.")
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        self.kept = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """``√ᾱ_t x_0 + √(1 − ᾱ_t) noise`` for x_0 ``[B, T, D]``, t int64 ``[B]``."""
        kept = self._at(t, x0)
        return kept.sqrt() * x0 + (1 - kept).sqrt() * noise

    def posterior(self, x0: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[B, T, D]``, variance ``[B, 1, 1]`` of ``q(x_{t−1} | x_t = x, x_0)``, t ``[B]`` from 1."""
        kept, before = self._at(t, x), self._at(t - 1, x)
        alpha = kept / before
        mean = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x) / (1 - kept)
        return mean, (1 - before) * (1 - alpha) / (1 - kept)

    def divergence_weight(self, t: Tensor) -> Tensor:
        """``½ (ᾱ_{t−1} / (1 − ᾱ_{t−1}) − ᾱ_t / (1 − ᾱ_t))``, float64 ``[B]`` for t ``[B]`` from 2.

        Times ``|x_0 − x̂_0|²`` it is ``KL(q(x_{t−1} | x_t, x_0) ‖ q(x_{t−1} | x_t, x̂_0))``.
        """
        ratio = self.kept / (1 - self.kept)
        return (0.5 * (ratio[:-1] - ratio[1:])).to(t.device)[t - 1]

    def step_shares(self) -> Tensor:
        """How often to look at each step of the bound, float64 ``[T]``, summing to 1.

        No step's divergence need be more than ``½ D log(SNR_{t−1} / SNR_t)``, with ``SNR = ᾱ / (1 − ᾱ)``: the
        estimate ``x_t / √ᾱ_t`` of x_0 is off by ``D / SNR_t``. The first step counts as the second.
        """
        kept = self.kept[1:]
        spans = (torch.log(kept) - torch.log1p(-kept)).diff().neg()
        spans = torch.cat([spans[:1], spans])
        return spans / spans.sum()

    def reverse_step(self, x: Tensor, x0: Tensor, t: int, to: int, eta: float, noise: Tensor) -> Tensor:
        """From ``x_t`` and an estimate of x_0 to ``x_to``, ``to < t``, by DDIM's rule

            ``√ᾱ_to x̂_0 + √(1 − ᾱ_to − σ²) ε̂ + σ noise``,    ``ε̂ = (x_t − √ᾱ_t x̂_0) / √(1 − ᾱ_t)``

        with ``σ² = η² (1 − ᾱ_to) / (1 − ᾱ_t) (1 − ᾱ_t / ᾱ_to)``. At η = 0 the noise is not used; at η = 1 and
        ``to = t − 1`` it draws from :meth:`posterior`, which is DDPM's step.
        """
        kept, wanted = self.kept[t].item(), self.kept[to].item()
        variance = eta**2 * (1 - wanted) / (1 - kept) * (1 - kept / wanted)
        epsilon = (x - math.sqrt(kept) * x0) / math.sqrt(1 - kept)
        # Rounding can leave a little less than nothing.
        direction = math.sqrt(max(1 - wanted - variance, 0.0))
        return math.sqrt(wanted) * x0 + direction * epsilon + math.sqrt(variance) * noise

    def _at(self, t: Tensor, like: Tensor) -> Tensor:
        return self.kept.to(like.device)[t].to(like.dtype).reshape(-1, 1, 1)
