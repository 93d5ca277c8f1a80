"""Random motion of a field: Lévy steps, Brownian steps of Beta-distributed time, and a schedule."""

import json
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .golden import PHI

Kind = Literal["none", "levy", "beta", "adaptive"]


def levy_stable(
    size: tuple[int, ...],
    alpha: float = PHI,
    truncation: float | None = None,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws of the symmetric α-stable law, whose characteristic function is ``exp(−|t|^α)``: float32.

        ``S = sin(αV) / cos(V)^{1/α} · (cos((1 − α)V) / W)^{(1 − α)/α}``

    with V uniform on (−π/2, π/2) and W ~ Exp(1).

    Its variance is infinite for α < 2: ``P(|S| > x) ~ x^-α``. With a truncation, draws beyond it are drawn
    again, which gives the law conditional on ``|S| ≤ truncation``.

    Args:
        size: of the result.
        alpha: in (0, 2]; 2 is the normal law of variance 2, 1 the Cauchy law. φ is the origin's.
        truncation: largest magnitude, None for none.
        generator: on the device; torch's default one if None.
        device: of the result.

    Raises:
        ValueError: an alpha or a truncation out of range.

    Source: J. Chambers, C. Mallows and B. Stuck, "A method for simulating stable random variables", 1976.

    >>> draws = levy_stable((100_000,), generator=torch.Generator().manual_seed(0))
    >>> measured, law = draws.cos().mean(), math.exp(-1)  # the characteristic function at t = 1
    >>> bool(abs(measured - law) < 4 / 100_000**0.5)
    True
    """
    if not 0 < alpha <= 2:
        raise ValueError(f"alpha is {alpha}; it must be above 0 and at most 2.")
    if truncation is not None and not 0.1 <= truncation < math.inf:
        # Below a tenth hardly any draw is kept.
        raise ValueError(f"truncation is {truncation}; it must be at least 0.1 and finite, or None.")
    draws = _stable(math.prod(size), alpha, generator, device)
    while truncation is not None:
        beyond = (draws.abs() > truncation).nonzero().squeeze(1)
        if len(beyond) == 0:
            break
        draws[beyond] = _stable(len(beyond), alpha, generator, device)
    return draws.view(size).float()


def _stable(
    count: int, alpha: float, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    def uniform() -> Tensor:  # in (0, 1): the ends would give infinities
        draw = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
        return draw.clamp_(2.0**-53, 1 - 2.0**-53)

    v = (uniform() - 0.5) * math.pi
    w = -uniform().log()
    return (alpha * v).sin() / v.cos() ** (1 / alpha) * (((1 - alpha) * v).cos() / w) ** ((1 - alpha) / alpha)


def beta_times(
    size: tuple[int, ...],
    a: float,
    b: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draws of Beta(a, b) in float32, as ``X / (X + Y)`` with X ~ Gamma(a) and Y ~ Gamma(b); a, b ≥ 1/2.

    Source: G. Marsaglia and W. Tsang, "A simple method for generating gamma variables", 2000.

    >>> times = beta_times((100_000,), 2, 6, generator=torch.Generator().manual_seed(0))
    >>> round(float(times.mean()), 2)  # a / (a + b)
    0.25
    """
    if not (0.5 <= a < math.inf and 0.5 <= b < math.inf):
        raise ValueError(f"a and b are {a} and {b}; both must be at least 1/2 and finite.")
    count = math.prod(size)
    x, y = _gamma(a, count, generator, device), _gamma(b, count, generator, device)
    return (x / (x + y)).view(size).float()


def _gamma(shape: float, count: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    options = {"dtype": torch.float64, "generator": generator, "device": device}
    boost = 1.0
    if shape < 1:  # Gamma(a) = Gamma(a + 1) U^{1/a}
        boost = torch.rand(count, **options).clamp_min_(1e-300) ** (1 / shape)
        shape += 1
    d = shape - 1 / 3
    result = torch.empty(count, dtype=torch.float64, device=device)
    missing = torch.arange(count, device=device)
    while len(missing):
        normal, uniform = torch.randn(len(missing), **options), torch.rand(len(missing), **options)
        v = (1 + normal / (9 * d) ** 0.5) ** 3
        # A negative v has no logarithm: the comparison with NaN refuses it.
        accepted = uniform.log() < 0.5 * normal**2 + d - d * v + d * v.log()
        result[missing[accepted]] = d * v[accepted]
        missing = missing[~accepted]
    return result * boost


def perturb(
    x: Tensor,
    kind: Kind,
    scale: float,
    *,
    coherence: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move unit vectors at random and bring them back to unit length.

    - ``levy``: ``x + scale · S``, S α-stable with α = φ, truncated at 10.
    - ``beta``: ``x + √τ N(0, 1)/√D`` with a time step ``τ = clip(scale² / X, 10^-3 scale, scale)`` a token,
      ``X ~ Beta(D/2, T/2)``: the origin's rule with the step's length in units of the vector's own.
    - ``adaptive``: levy where the causal coherence is under a half, beta elsewhere.

    Args:
        x: ``[B, T, D]``.
        kind: of motion; ``none`` returns x.
        scale: above 0; the origin's is 0.01.
        coherence: ``[B, T]``, which ``adaptive`` needs, see :func:`~phasefield.layers.window_coherence`.
        generator: on x's device.

    Raises:
        ValueError: an unknown kind, or adaptive without a coherence.

    >>> x = torch.eye(4)[None]
    >>> moved = perturb(x, "levy", 0.1, generator=torch.Generator().manual_seed(0))
    >>> bool((moved != x).any()), torch.allclose(moved.norm(dim=-1), torch.ones(1, 4))
    (True, True)
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(get_args(Kind))}.")
    if kind == "none":
        return x
    if kind == "adaptive" and coherence is None:
        raise ValueError("coherence is None; the adaptive perturbation needs [B, T].")
    batch, length, width = x.shape
    where = {"generator": generator, "device": x.device}
    moved = x
    if kind != "beta":
        moved = x + scale * levy_stable((batch, length, width), truncation=10.0, **where).to(x.dtype)
    if kind != "levy":
        time = scale**2 / beta_times((batch, length, 1), max(width, 1) / 2, max(length, 1) / 2, **where)
        step = time.clamp(1e-3 * scale, scale).sqrt() / width**0.5
        brownian = x + (step * torch.randn(x.shape, **where)).to(x.dtype)
        moved = brownian if kind == "beta" else torch.where(coherence.unsqueeze(-1) < 0.5, moved, brownian)
    return torch.nn.functional.normalize(moved, dim=-1)


@dataclass(frozen=True)
class PerturbationSchedule:
    """Which perturbation acts from which step on: ``{"0": "beta", "10000": "adaptive"}`` as JSON.

    Attributes:
        starts: ``(first step, kind)``, by step.
    """

    starts: tuple[tuple[int, Kind], ...]

    @classmethod
    def parse(cls, text: str) -> "PerturbationSchedule":
        """Read JSON; what comes before the first step named is unperturbed.

        Raises:
            ValueError: not a JSON object of steps and kinds.

        >>> schedule = PerturbationSchedule.parse('{"0": "beta", "10000": "adaptive"}')
        >>> schedule.at(9999), schedule.at(10000)
        ('beta', 'adaptive')
        """
        try:
            entries = [(int(step), kind) for step, kind in json.loads(text).items()]
        except (ValueError, AttributeError, TypeError):
            entries = [(-1, "")]
        if any(step < 0 or kind not in get_args(Kind) for step, kind in entries):
            raise ValueError(
                f"the perturbation schedule is {text!r:.100}; it must be a JSON object from steps to "
                f'{", ".join(get_args(Kind))}, such as {{"0": "beta", "10000": "adaptive"}}.'
            )
        return cls(tuple(sorted(entries)))

    def at(self, step: int) -> Kind:
        """The kind that acts at a step, counted from 0."""
        acting: Kind = "none"
        for first, kind in self.starts:
            if first <= step:
                acting = kind
        return acting
