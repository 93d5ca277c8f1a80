"""Golden codes: tokens as angles that are multiples of irrational numbers, as integers and as vectors."""

import math
from decimal import Decimal, localcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from phasefield_kernels import radians_from_phase

PHI = (1 + math.sqrt(5)) / 2
Embedding = Literal["golden", "log_phase", "cone"]
"""The modes of :func:`phase_code` and :class:`GoldenEmbedding`."""
CORE_RADIUS = 1 / PHI**2
"""0.382: the origin's radius of the most frequent token; the rarest one's is 1."""


def golden_frequencies(count: int) -> Tensor:
    """``count`` incommensurable frequencies, as odd integers in units of 2^-64 turns: int64 ``[count]``.

    ``α_k = g^-k`` for k = 1 … count, with g > 1 the root of ``x^(count + 1) = x + 1``: the golden ratio for
    one frequency, its generalisation for more. Multiples of all of them together fill the torus evenly.
    Rounding to odd integers makes each multiplication by one of them invertible modulo 2^64.

    Source: M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.

    >>> hex(int(golden_frequencies(1)) % 2**64)  # 1/φ of a turn
    '0x9e3779b97f4a7c15'
    """
    with localcontext() as context:
        context.prec = 50
        root, exponent = Decimal(2), Decimal(1) / (count + 1)
        for _ in range(200):  # a contraction by less than 1/2 a step: 2^-200 is far below 50 digits
            root = (1 + root) ** exponent
        turns = [int(root**-k * 2**64) | 1 for k in range(1, count + 1)]
    return torch.tensor([turn - 2**64 if turn >= 2**63 else turn for turn in turns], dtype=torch.int64)


def phase_harmonics(phase: Tensor, frequencies: Tensor) -> Tensor:
    """Unit vectors that stand for integer phases: ``√(1/K) (cos, sin)(2π f_k · phase / 2^64)``.

    Equal phases give equal vectors; different ones are nearly orthogonal, with an inner product of mean 0
    and standard deviation ``√(1/2K)``.

    Args:
        phase: int64, any shape.
        frequencies: int64 ``[K]``, see :func:`golden_frequencies`.

    Returns:
        float32, phase's shape and an axis of ``2K``.
    """
    angle = radians_from_phase(phase.unsqueeze(-1) * frequencies, torch.float32)
    return torch.cat([angle.cos(), angle.sin()], dim=-1) * len(frequencies) ** -0.5


def phase_code(phase: Tensor, frequencies: Tensor, mode: Embedding = "golden", scale: float = 0.1) -> Tensor:
    """Unit vectors that stand for integer phases, by mode:

    - ``golden``: :func:`phase_harmonics`.
    - ``log_phase``: its symmetric logarithm ``sgn(x) ln(1 + |x| / scale)``, x in units of a harmonic's
      amplitude, brought back to unit length. Phases are everywhere, so the code is centred.
    - ``cone``: the origin's three dimensions, ``(cos θ, sin θ, 1) / √2``, θ the first harmonic's angle. The
      third is the same for all: two codes have an inner product of 1/2 in the mean, not 0.

    Args:
        phase: int64, any shape.
        frequencies: int64 ``[K]``, see :func:`golden_frequencies`.
        mode: see above.
        scale: of the symmetric logarithm.

    Returns:
        float32, phase's shape and an axis of ``2K``, or of 3 for the cone.

    >>> phases = torch.arange(1, 101) * golden_frequencies(1)
    >>> [int(torch.linalg.matrix_rank(phase_code(phases, golden_frequencies(8), mode)))
    ...  for mode in ("golden", "log_phase", "cone")]
    [16, 16, 3]
    """
    if mode == "cone":
        plane = phase_harmonics(phase, frequencies[:1])
        return torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1) * 0.5**0.5
    code = phase_harmonics(phase, frequencies)
    if mode == "log_phase":
        amplitude = len(frequencies) ** -0.5
        code = code.sign() * (code.abs() / (scale * amplitude)).log1p()
        code = nn.functional.normalize(code, dim=-1)
    return code


class GoldenEmbedding(nn.Module):
    """A fixed code of tokens, made of golden angles; nothing in it is learnt.

    Modes, with the radius ``r_i = 0.382 + 0.618 · rank_i / V`` and rank 0 for the most frequent token:

    - ``golden``: pair k of the vector is ``r_i (cos, sin)(2π (i + 1) α_k) / √(dim/2)`` with the
      :func:`golden_frequencies` α. Full rank.
    - ``cone``: the origin's ``(r cos θ_i, r sin θ_i, r)`` with ``θ_i = 2π i φ``; dim is 3.
    - ``log_phase``: ``symlog(golden / scale)`` = sgn(x) ln(1 + |x| / scale), centred over the vocabulary:
      small coordinates are spread, large ones compressed, the order kept.

    Args:
        vocab_size: V.
        dim: width; even for ``golden`` and ``log_phase``.
        mode: see above.
        scale: of the symmetric logarithm.

    The origin's own logarithm is :func:`origin_log_phase`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        mode: Embedding = "golden",
        *,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if mode not in get_args(Embedding):
            raise ValueError(f"mode is {mode!r}; allowed are {', '.join(get_args(Embedding))}.")
        if dim < 2 or (dim != 3 if mode == "cone" else dim % 2):
            raise ValueError(f"dim is {dim}; it must be {'3' if mode == 'cone' else 'even'} for {mode!r}.")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale is {scale}; it must be above 0 and finite.")
        self.vocab_size, self.dim, self.mode, self.scale = vocab_size, dim, mode, scale
        self.register_buffer("table", torch.empty(vocab_size, dim))
        self.set_counts(torch.zeros(vocab_size))

    @torch.no_grad()
    def set_counts(self, counts: Tensor) -> None:
        """Take radii from measured frequencies ``[V]``; equally frequent tokens stay in order."""
        order = torch.argsort(counts, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(self.vocab_size))
        radius = (CORE_RADIUS + (1 - CORE_RADIUS) * rank / self.vocab_size).unsqueeze(1)
        if self.mode == "cone":
            turns = torch.arange(self.vocab_size) * golden_frequencies(1)
            angle = radians_from_phase(turns).float().unsqueeze(1)
            self.table.copy_(torch.cat([radius * angle.cos(), radius * angle.sin(), radius], dim=1))
            return
        tokens = torch.arange(1, self.vocab_size + 1)
        code = radius * phase_harmonics(tokens, golden_frequencies(self.dim // 2))
        if self.mode == "log_phase":
            code = code.sign() * (code.abs() / self.scale).log1p()
            code = code - code.mean(0)
        self.table.copy_(code)

    def forward(self, tokens: Tensor) -> Tensor:
        """The codes ``[…, dim]`` of int64 tokens ``[…]``."""
        return nn.functional.embedding(tokens, self.table)

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, {self.dim}, mode={self.mode!r}"


def origin_log_phase(coordinates: Tensor, epsilon: float = 1e-6) -> Tensor:
    """The origin's logarithm of cone coordinates ``[V, 3]``, kept to be compared with.

    ``r = √(x² + y² + ε)``, ``x' = ln(r + ε) + sgn(cos) ln(|cos| + ε)``, y' likewise with sin,
    ``z' = ln(z + ε)``. It is not monotone: ``|cos| → 1`` gives 0 and ``|cos| → 0`` gives ∓ln ε, with a jump.
    """
    x, y, z = coordinates.unbind(-1)
    radius = (x * x + y * y + epsilon).sqrt()
    log_radius = (radius + epsilon).log()
    parts = [log_radius + part.sign() * ((part / radius).abs() + epsilon).log() for part in (x, y)]
    return torch.stack([*parts, (z + epsilon).log()], dim=-1)


def hebbian_amplification(vocab_size: int, pairs: int, epsilon: float = 1e-6) -> float:
    """How much larger the Hebbian sum of successive tokens is for the origin's log-phase than without it.

    ``‖Σ_k e'_{k+1} e'_kᵀ‖_F / ‖Σ_k e_{k+1} e_kᵀ‖_F`` over the first ``pairs`` tokens of ``vocab_size``, in
    the plane (x, y), as the origin's own test has it: 11.89 for V = 500, N = 100, ε = 1e-6.

    It is a ratio of norms, not a gain in learning: the plain code's shift products cancel around the circle,
    while the logarithm's mean is not zero, and its products add up along that one direction.

    >>> round(hebbian_amplification(500, 100), 2), round(hebbian_amplification(500, 500), 2)
    (11.89, 1.84)
    """
    if not 2 <= pairs <= vocab_size:
        raise ValueError(f"pairs is {pairs}; it must be at least 2 and at most vocab_size ({vocab_size}).")
    plain = GoldenEmbedding(vocab_size, 3, "cone").table.double()
    log = origin_log_phase(plain, epsilon)
    norms = [(code[1:pairs, :2].T @ code[: pairs - 1, :2]).norm() for code in (log, plain)]
    return float(norms[0] / norms[1])
