"""Gravity between what was seen and what is seen: a memory of one sequence, written by being there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .golden import PHI, Embedding, golden_frequencies, phase_code

_CHUNK = 64


@dataclass(frozen=True)
class GravityState:
    """The particles that the next tokens still feel: S of them, the last one last.

    Attributes:
        places: ``[B, S, dim]``, codes of the contexts that each token followed.
        tokens: ``[B, S]`` int64.
        mass: ``[B, S]``.
        last: ``[B, 1, dim]``, the place of the next particle.
    """

    places: Tensor
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
    force (:func:`phasefield_kernels.gravity_field`) of all particles in the past. Along e_v that is

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
        device = self.code.weight.device
        nowhere = torch.zeros(batch, 1, self.orders, dtype=torch.int64, device=device)
        return GravityState(
            torch.zeros(batch, 0, self.code.dim, device=device),
            torch.zeros(batch, 0, dtype=torch.int64, device=device),
            torch.zeros(batch, 0, device=device),
            self.code(nowhere),
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
            move: of the test particles ``[B, T, R · width]``, which stay unit vectors, see
                :func:`~phasefield.layers.perturb`.

        Returns:
            ``(pull, state)``: pull ``[B, T, V]``, at least 0, what position t feels from tokens up to t.
        """
        state = self.init_state(len(tokens)) if state is None else state
        length, old = tokens.shape[1], state.tokens.shape[1]
        at = self.code(phases)
        trail = torch.cat([state.places, state.last, at], dim=1)
        seen = GravityState(
            trail[:, :-1],
            torch.cat([state.tokens, tokens], dim=1),
            torch.cat([state.mass, mass], dim=1),
            trail[:, -1:],
        )
        one_hot = nn.functional.one_hot(seen.tokens, self.vocab_size)
        masses = (one_hot * seen.mass.unsqueeze(-1)).to(at.dtype)
        tests = at if move is None else move(at)
        starts = range(0, length, _CHUNK)
        pulls = [self._pull(tests[:, t : t + _CHUNK], seen.places, masses, old + t) for t in starts]
        pull = torch.cat(pulls, dim=1) if pulls else masses[:, :0]
        kept = slice(max(0, old + length - self.horizon + 1), None)
        return pull, GravityState(seen.places[:, kept], seen.tokens[:, kept], seen.mass[:, kept], seen.last)

    def _pull(self, tests: Tensor, places: Tensor, masses: Tensor, at: int) -> Tensor:
        # gravity_field would sum the force along the codes too, which nothing reads.
        end, first = at + tests.shape[1], max(0, at - self.horizon + 1)
        # |q − q'|² = 2 − 2 q·q' errs by a few 2^-24; λ² + ε² beside it is 0.025.
        constant = tests.new_full((1, 1, 1), 2 + self.value_scale**2 + self.softening**2)
        inverse = torch.baddbmm(constant, tests, places[:, first:end].mT, alpha=-2).rsqrt_()
        force = inverse.square().mul_(inverse).sub_(self.background)
        t, s = (torch.arange(*span, device=tests.device) for span in ((at, end), (first, end)))
        lag = t.unsqueeze(1) - s
        force.masked_fill_((lag < 0) | (lag >= self.horizon), 0)
        return (force @ masses[:, first:end]).clamp_min_(0)

    def extra_repr(self) -> str:
        return f"{self.vocab_size}, orders={self.orders}, horizon={self.horizon}"
