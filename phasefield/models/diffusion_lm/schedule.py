"""How much of the signal is left after t steps of noise, and the way back."""

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["sqrt", "cosine"]


class NoiseSchedule:
    """The forward process from an embedding c: ``x_0 = c + σ₀ ε``, ``x_t = √α_t x_{t−1} + √(1 − α_t) ε``.

    ``ᾱ_t = Π_{s ≤ t} α_s`` with ``α_s = max(f(s/T) / f((s−1)/T), 0.001)`` and

        cosine: ``f(u) = cos²((u + 0.008) / 1.008 · π/2)``        (Nichol and Dhariwal, 2021)
        sqrt: ``f(u) = 1 − √(u + 10⁻⁴)``        (Li et al., 2022: Diffusion-LM)

    so ``ᾱ_t = f(t/T) / f(0)`` wherever α is not cut, which it is at the last step. ``σ₀² = 1 − ᾱ_1``, as in
    Diffusion-LM. All together ``x_t ~ N(√ᾱ_t c, v_t I)`` with ``v_t = 1 − ᾱ_t + ᾱ_t σ₀²``, t = 0 … T.

    Args:
        kind: which of them.
        steps: T, at least 2.

    Attributes:
        kind, steps: as given.
        kept: ᾱ, float64 ``[T + 1]`` on the CPU; 1 at t = 0.
        variance: v, likewise; σ₀² at t = 0.
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
        alpha = (f[1:] / f[:-1]).clamp(min=0.001)
        self.kept = torch.cat([torch.ones(1, dtype=torch.float64), alpha.cumprod(0)])
        self.variance = 1 - self.kept * self.kept[1]

    def noised(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """``x_t = √ᾱ_t c + √v_t noise`` for c ``[B, T, D]``, t int64 ``[B]``."""
        return self._at(self.kept, t, clean).sqrt() * clean + self._at(self.variance, t, clean).sqrt() * noise

    def posterior(self, clean: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[B, T, D]``, variance ``[B, 1, 1]`` of ``q(x_{t−1} | x_t = x, c)``, t ``[B]`` from 1."""
        kept, kept_before = self._at(self.kept, t, x), self._at(self.kept, t - 1, x)
        variance, variance_before = self._at(self.variance, t, x), self._at(self.variance, t - 1, x)
        alpha = kept / kept_before
        mean = (kept_before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * variance_before * x) / variance
        return mean, variance_before * (1 - alpha) / variance

    def divergence_weight(self, t: Tensor) -> Tensor:
        """``½ (ᾱ_{t−1} / v_{t−1} − ᾱ_t / v_t)``, float64 ``[B]`` for t ``[B]`` from 1.

        Times ``|c − ĉ|²`` it is ``KL(q(x_{t−1} | x_t, c) ‖ q(x_{t−1} | x_t, ĉ))``.
        """
        return (-0.5 * (self.kept / self.variance).diff()).to(t.device)[t - 1]

    def step_shares(self) -> Tensor:
        """How often to look at each step of the bound, float64 ``[T]``, summing to 1.

        No step's divergence need be more than about ``½ D ln(r_{t−1} / r_t)``, with ``r = ᾱ / v`` the ratio
        of signal to noise: the guess ``x_t / √ᾱ_t`` of c is off by ``D / r_t``.
        """
        spans = torch.log(self.kept / self.variance).diff().neg()
        return spans / spans.sum()

    def reverse_step(self, x: Tensor, clean: Tensor, t: int, to: int, eta: float, noise: Tensor) -> Tensor:
        """From ``x_t`` and a guess ĉ to ``x_to``, ``to < t``, by DDIM's rule

            ``√ᾱ_to ĉ + √(v_to − s²) ε̂ + s noise``,    ``ε̂ = (x_t − √ᾱ_t ĉ) / √v_t``

        with ``s² = η² (1 − ᾱ_t / ᾱ_to) v_to / v_t``. At η = 0 the noise is not used; at η = 1 it draws from
        the posterior, which for ``to = t − 1`` is DDPM's step. Nothing is divided by a vanishing number: v is
        never under σ₀².
        """
        kept, kept_to = self.kept[t].item(), self.kept[to].item()
        variance, variance_to = self.variance[t].item(), self.variance[to].item()
        fresh = eta**2 * (1 - kept / kept_to) * variance_to / variance
        found = (x - math.sqrt(kept) * clean) / math.sqrt(variance)
        return math.sqrt(kept_to) * clean + math.sqrt(variance_to - fresh) * found + math.sqrt(fresh) * noise

    def _at(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return values.to(like.device)[t].to(like.dtype).reshape(-1, 1, 1)
