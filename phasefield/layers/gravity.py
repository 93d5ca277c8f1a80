"""Gravity between what was seen and what is seen: a memory of one sequence, written by being there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasefield_kernels import gravity_field

from .golden import PHI, Embedding, golden_frequencies, phase_code

_CHUNK = 64


@dataclass(frozen=True)
class GravityState:
    """The particles that the next tokens still feel: S of them, the last one last.

    Attributes:
        phases: ``[B, S, R]`` int64, of the contexts that each token followed.
        tokens: ``[B, S]`` int64.
        mass: ``[B, S]``.
        last: ``[B, R]`` int64, the contexts that the next token follows.
    """

    phases: Tensor
    tokens: Tensor
    mass: Tensor
    last: Tensor


class NestedCode(nn.Module):
    """Unit vectors of nested contexts: the golden codes of the last 1, 2, …, R tokens, side by side.

    Their weights fall as ``φ^{-r}``: each further token that agrees brings two contexts closer.

    Args:
        orders: R.
        width: of one order's code, even.
        embedding: the code of one order, see :func:`~phasefield.layers.phase_code`.
    """

    def __init__(self, orders: int, width: int, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        weight = PHI ** -torch.arange(1, orders + 1).float()
        self.register_buffer("weight", (weight / weight.sum()).sqrt(), persistent=False)
        self.register_buffer("frequencies", golden_frequencies(width // 2), persistent=False)

    @property
    def dim(self) -> int:
        """Of the vectors: ``R · width`` (cone: ``R · 3``)."""
        return len(self.weight) * (3 if self.embedding == "cone" else 2 * len(self.frequencies))

    def forward(self, phases: Tensor) -> Tensor:
        """The unit vectors ``[…, dim]`` of context phases ``[…, R]``."""
        codes = phase_code(phases, self.frequencies, self.embedding) * self.weight.unsqueeze(1)
        return codes.flatten(-2)


class GravityMemory(nn.Module):
    """Every token of the sequence is a particle, which pulls the present towards what it was.

    A particle stands at ``(q, λ e_v)``: q the unit vector of the context before it, e_v the one-hot code
    of its token. A massless test particle at ``(q', 0)``, q' the present context, feels the Plummer-softened
    force of all particles in the past (:func:`phasefield_kernels.gravity_field`). Along e_v that force is

        ``λ Σ_j m_j [v_j = v] (|q_j − q'|² + λ² + ε²)^{-3/2}``

    so what followed contexts like the present one pulls hardest. q is the :class:`NestedCode` of the
    context. Far particles form a uniform background, ``(2 + λ² + ε²)^{-3/2}`` each (1 in the place of 2 for
    the cone, whose codes are not orthogonal); as in cosmology only what exceeds it counts.

    Args:
        vocab_size: V.
        orders: R.
        width: of one order's code, even.
        horizon: how many of the last tokens are felt.
        value_scale: λ.
        softening: ε.
        embedding: the code of one order, see :func:`~phasefield.layers.phase_code`.

    >>> gravity = GravityMemory(4, orders=1)
    >>> contexts = torch.tensor([[11, 22, 33, 11]])[..., None] * golden_frequencies(1)
    >>> pull, _ = gravity(contexts, torch.tensor([[0, 1, 2, 3]]), torch.ones(1, 4))
    >>> int(pull[0, 3].argmax())  # the last context was here before: then token 1 followed
    1
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        orders: int = 5,
        width: int = 32,
        horizon: int = 512,
        value_scale: float = 0.15,
        softening: float = 0.05,
        embedding: Embedding = "golden",
    ) -> None:
        super().__init__()
        if orders < 1 or horizon < 1 or width < 2 or width % 2:
            raise ValueError(
                f"orders, horizon and width are {orders}, {horizon} and {width}; the first two must be at "
                "least 1, the width even."
            )
        self.vocab_size, self.orders, self.horizon = vocab_size, orders, horizon
        self.value_scale, self.softening, self.embedding = value_scale, softening, embedding
        self.code = NestedCode(orders, width, embedding)
        apart = 1 if embedding == "cone" else 2  # |q − q'|² in the mean
        self.background = (apart + value_scale**2 + softening**2) ** -1.5

    def init_state(self, batch: int) -> GravityState:
        """No particles."""
        where = {"device": self.code.weight.device}
        whole = {"dtype": torch.int64, **where}
        return GravityState(
            torch.zeros(batch, 0, self.orders, **whole),
            torch.zeros(batch, 0, **whole),
            torch.zeros(batch, 0, **where),
            torch.zeros(batch, self.orders, **whole),
        )

    def forward(
        self,
        phases: Tensor,
        tokens: Tensor,
        mass: Tensor,
        state: GravityState | None = None,
        move: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, GravityState]:
        """The pull towards each token.

        Args:
            phases: ``[B, T, R]`` int64, of the last 1 … R tokens at each position, the token there included.
            tokens: ``[B, T]``.
            mass: ``[B, T]``, of the particles that the tokens become.
            state: of the tokens before; none if None.
            move: displaces the test particles ``[B, T, R · width]``, see :func:`~phasefield.layers.perturb`.

        Returns:
            ``(pull, state)``: pull ``[B, T, V]``, at least 0, what position t feels from tokens up to t.
        """
        state = self.init_state(len(tokens)) if state is None else state
        length = tokens.shape[1]
        old = state.tokens.shape[1]
        before = torch.cat([state.last.unsqueeze(1), phases[:, :-1]], dim=1)
        seen = GravityState(
            torch.cat([state.phases, before], dim=1),
            torch.cat([state.tokens, tokens], dim=1),
            torch.cat([state.mass, mass], dim=1),
            phases[:, -1] if length else state.last,
        )
        one_hot = nn.functional.one_hot(seen.tokens, self.vocab_size).to(mass.dtype)
        particles = torch.cat([self.code(seen.phases), self.value_scale * one_hot], dim=-1)
        tests = self.code(phases)
        tests = nn.functional.pad(tests if move is None else move(tests), (0, self.vocab_size))
        pulls = [
            self._pull(tests[:, at : at + _CHUNK], particles, seen.mass, old + at)
            for at in range(0, length, _CHUNK)
        ]
        pull = torch.cat(pulls, dim=1) / self.value_scale if pulls else tests[..., -self.vocab_size :]
        mean = self._background(one_hot * seen.mass.unsqueeze(-1), length)
        keep = slice(max(0, old + length - self.horizon + 1), None)
        carried = GravityState(seen.phases[:, keep], seen.tokens[:, keep], seen.mass[:, keep], seen.last)
        return (pull - mean).clamp_min(0), carried

    def _pull(self, tests: Tensor, particles: Tensor, mass: Tensor, at: int) -> Tensor:
        # Given sources lie in the past of all tests; those of the chunk itself are woven between them,
        # particle t just before test t.
        length = tests.shape[1]
        options = {"strength": 1.0, "softening": self.softening}
        first = max(0, at - self.horizon + 1)
        past, own = slice(first, at), slice(at, at + length)
        woven = torch.stack([particles[:, own], tests], dim=2).flatten(1, 2)
        masses = torch.stack([mass[:, own], torch.zeros_like(mass[:, own])], dim=2).flatten(1, 2)
        window = None if length <= self.horizon else 2 * self.horizon - 1
        force = gravity_field(woven, masses, window=window, **options)[:, 1::2]
        if at > first:
            force = force + gravity_field(
                tests, mass[:, past], source=particles[:, past], window=max(1, self.horizon - 1), **options
            )
        return force[..., -self.vocab_size :]

    def _background(self, masses: Tensor, length: int) -> Tensor:
        sums = nn.functional.pad(masses.cumsum(1), (0, 0, self.horizon, 0))
        window = sums[:, self.horizon :] - sums[:, : -self.horizon]
        return self.background * window[:, window.shape[1] - length :]

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, orders={self.orders}, horizon={self.horizon}"
