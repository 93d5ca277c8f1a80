"""The field model: a crystal, gravity and a Born mixture, all of which learn without back-propagation."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from phasefield_kernels import hebbian_scan

from ..layers.coherence import window_coherence
from ..layers.contexts import LONGEST, ContextPhases, ContextState
from ..layers.crystal import CrystalMemory
from ..layers.golden import golden_frequencies, phase_harmonics
from ..layers.gravity import GravityMemory, GravityState
from ..layers.mixture import BornMixture, confidence_level
from ..layers.perturbation import Kind, PerturbationSchedule, perturb
from .base import ModelLoss

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BLUR = 0.02
"""Evidence that a sequence's memories give to all tokens alike, so that none has probability 0."""
_PULL_UNIT = 0.175
"""Of a pull in units of one trace: a particle that agrees in everything pulls with about 250."""
_BLOCK = 256
"""Tokens whose changes of the mixture's weights are summed before the next ones see them."""


@dataclass(frozen=True)
class FieldConfig:
    """The model's memories; the defaults are the base size.

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    contexts: str = "0 1 2 3 4 5 6 8 w w1 w2 ws"
    """what the crystal remembers by: the last n tokens, the word so far (w), with earlier (w1, w2, ws)"""
    sites: int = 2**22
    """sites of each of the crystal's two tables, a power of two"""
    state_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of the crystal's amplitudes; in 16 bits they are rounded stochastically"""
    horizon: int = 512
    """how many of the last tokens pull by gravity; 0 = no gravity"""
    orders: int = 5
    """tokens of context in a particle's place"""
    order_width: int = 32
    """width of one order's golden code"""
    surprise_mass: bool = True
    """a token's mass is the crystal's surprise at it; 1 if off"""
    fast_weights: bool = False
    """a Hebbian matrix memory of each sequence, besides gravity"""
    coherence_gate: bool = True
    """let the mixture's weights depend on the coherence of the field's last five states"""
    perturbation_schedule: str = "{}"
    """perturbations of the field in training, by step: '{"0": "beta", "10000": "adaptive"}'"""
    perturbation_scale: float = 0.01
    """of the perturbations"""

    def __post_init__(self) -> None:
        allowed = {
            "sites": (self.sites >= 4 and not self.sites & (self.sites - 1), "a power of two, at least 4"),
            "horizon": (self.horizon >= 0, "at least 0 (0 = no gravity)"),
            "orders": (1 <= self.orders <= LONGEST, f"from 1 to {LONGEST}"),
            "order_width": (self.order_width >= 2 and self.order_width % 2 == 0, "even, at least 2"),
            "state_dtype": (self.state_dtype in _DTYPES, "fp32, bf16 or fp16"),
            "perturbation_scale": (0 < self.perturbation_scale <= 1, "above 0 and at most 1"),
            "contexts": (self.contexts.split()[:1] == ["0"], "names that begin with 0, the empty context"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}.")
        PerturbationSchedule.parse(self.perturbation_schedule)
        if self.vocab_size > 1024 and (self.horizon or self.fast_weights):
            raise ValueError(
                f"vocab_size is {self.vocab_size}; the memories of a sequence hold one-hot codes of at most "
                "1024 tokens: give horizon 0 and no fast_weights."
            )


@dataclass(frozen=True)
class FieldState:
    """A sequence so far.

    Attributes:
        contexts: of :class:`~phasefield.layers.ContextPhases`.
        last: ``[B, C]`` int64, the contexts that the next token follows.
        gravity: the particles that are still felt.
        fast: ``[B, H, V, K]``, the fast weights, with no heads if there are none.
        window: ``[B, 4, D]``, the field's last states, for its coherence.
    """

    contexts: ContextState
    last: Tensor
    gravity: GravityState | None
    fast: Tensor
    window: Tensor


@dataclass(frozen=True)
class _Reading:
    """What the memories say before the next token is known, and how sure they are."""

    pulls: list[Tensor]
    confidence: Tensor
    gates: Tensor


class Field(nn.Module):
    """Tokens are golden angles; memories of what followed them predict; a Born mixture makes one.

    1. Every context of a position (the last n tokens, the word) is one bound golden phase.
    2. The crystal holds Hebbian traces of what followed each context in all that was learnt.
    3. The tokens of the sequence itself are particles; test particles at the present context are pulled to
       what followed contexts like it. A token's mass is the crystal's surprise at it.
    4. The mixture weighs all predictions by their confidence, the last token, the place in the word and the
       field's coherence.

    Nothing has a gradient: there are no parameters, only buffers, which :meth:`learn_` changes locally.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        names = tuple(config.contexts.split())
        self.phases = ContextPhases(config.vocab_size, names)
        dtype = _DTYPES[config.state_dtype]
        self.crystal = CrystalMemory(config.vocab_size, _parents(names), config.sites, dtype)
        self.gravity = None
        if config.horizon:
            self.gravity = GravityMemory(
                config.vocab_size,
                orders=config.orders,
                width=config.order_width,
                horizon=config.horizon,
            )
        self._fast_orders = (3, 5) if config.fast_weights else ()
        self.register_buffer("_fast_frequencies", golden_frequencies(64), persistent=False)
        self.register_buffer("_code_frequencies", golden_frequencies(16), persistent=False)
        memories = len(names) + (self.gravity is not None) + len(self._fast_orders)
        suffixes = sum(name.isdigit() for name in names)
        words = len(names) - suffixes
        is_suffix = torch.tensor([name.isdigit() for name in names])
        self.register_buffer("_is_suffix", is_suffix, persistent=False)
        self.mixture = BornMixture(memories, (257, 22, (suffixes + 1) * (words + 1), 9))

    def set_boundaries(self, boundary: Tensor) -> None:
        """Say which tokens stand between words, bool ``[V]``; none do before."""
        self.phases.boundary.copy_(boundary)

    def adaptable(self) -> list[tuple[str, int]]:
        """How many numbers learning can change, by part; the crystal's are its capacity."""
        return [
            ("crystal's contexts, occurrences and followers", self.crystal.contexts.amplitudes.numel()),
            ("crystal's bonds", self.crystal.bonds.amplitudes.numel()),
            ("mixture's weights", self.mixture.by_confidence.numel() + self.mixture.by_gate.numel()),
        ]

    def init_state(self, batch: int) -> FieldState:
        """Of sequences that have not begun."""
        device = self.phases.boundary.device
        return FieldState(
            self.phases.init_state(batch),
            self.phases.empty().expand(batch, -1),
            None if self.gravity is None else self.gravity.init_state(batch),
            torch.zeros(batch, len(self._fast_orders), self.config.vocab_size, 128, device=device),
            torch.zeros(batch, 4, 32, device=device),
        )

    def forward(self, tokens: Tensor, state: FieldState | None = None) -> tuple[Tensor, FieldState]:
        """Log-probabilities ``[B, T, vocab_size]`` of what follows each of ``[B, T]``, and the state."""
        phases, reading, state = self._read(tokens, state)
        vocabulary = torch.arange(self.config.vocab_size, device=tokens.device)
        rows = []
        for t in range(0, tokens.shape[1], 16):  # all candidates of all contexts at once are many
            part = slice(t, t + 16)
            p, _ = self.crystal.read(phases[:, part], vocabulary.expand(*phases[:, part].shape[:2], -1))
            others = [_distribution(pull[:, part]).unsqueeze(-1) for pull in reading.pulls]
            weights = self.mixture(reading.confidence[:, part], reading.gates[:, part])
            rows.append((torch.cat([p, *others], dim=-1) * weights.unsqueeze(-2)).sum(-1))
        logits = torch.cat(rows, dim=1) if rows else phases.new_zeros(*tokens.shape, len(vocabulary)).float()
        return logits.log().log_softmax(-1), state

    def step(self, token: Tensor, state: FieldState) -> tuple[Tensor, FieldState]:
        """One token ``[B]`` → log-probabilities ``[B, vocab_size]`` of the next, and the new state."""
        logits, state = self(token.unsqueeze(1), state)
        return logits.squeeze(1), state

    def loss(self, tokens: Tensor, targets: Tensor, state: FieldState | None = None) -> ModelLoss:
        """Mean cross-entropy of ``targets`` ``[B, T]`` after ``tokens`` ``[B, T]``; nothing is learnt."""
        phases, reading, state = self._read(tokens, state)
        p = self._of_tokens(phases, reading, targets)
        weights = self.mixture(reading.confidence, reading.gates)
        content = -(weights * p).sum(-1).log().mean()
        return ModelLoss(content, {"content": content}, state)

    def learn_(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: FieldState | None = None,
        *,
        rate: float,
        perturbation: Kind = "none",
        generator: torch.Generator | None = None,
    ) -> ModelLoss:
        """Predict ``targets``, then learn from them: first the mixture's weights, then the crystal's traces.

        Args:
            tokens: ``[B, T]``.
            targets: ``[B, T]``, what followed them.
            state: of the sequences so far.
            rate: η of the mixture's delta rule.
            perturbation: of the field.
            generator: of the perturbation and of stochastic rounding.

        Returns:
            The loss before anything of it was learnt.
        """
        phases, reading, state = self._read(tokens, state, perturbation, generator)
        p = self._of_tokens(phases, reading, targets)
        # Time first: a block holds neighbours from as many sequences as there are.
        rows = [x.transpose(0, 1).flatten(0, 1).split(_BLOCK) for x in (p, reading.confidence, reading.gates)]
        scores = [self.mixture.learn_(*block, rate) for block in zip(*rows, strict=True)]
        self.crystal.learn_(phases, targets, generator)
        content = -torch.cat(scores).mean()
        return ModelLoss(content, {"content": content}, state)

    def forget_(self, tokens: Tensor, targets: Tensor, generator: torch.Generator | None = None) -> None:
        """Take back the crystal's traces of a batch that was learnt from its start.

        What the crystal has learnt it knows better than it will know a new text, so a batch that comes again
        is forgotten before :meth:`learn_` predicts it: the mixture learns what they are worth on new text.
        """
        phases, _, _ = self.phases(tokens)
        self.crystal.learn_(phases, targets, generator, forget=True)

    def _read(
        self,
        tokens: Tensor,
        state: FieldState | None,
        perturbation: Kind = "none",
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, _Reading, FieldState]:
        state = self.init_state(len(tokens)) if state is None else state
        phases, place, contexts = self.phases(tokens, state.contexts)
        evidence = self.crystal.contexts.read(self.crystal.contexts.find(phases))
        levels = [confidence_level(evidence[..., 0], evidence[..., 1])]
        suffixes, _ = self.phases.suffixes(tokens, state.contexts.recent, max(self.config.orders, 5))
        code = phase_harmonics(suffixes[2], self._code_frequencies)
        coherence = window_coherence(torch.cat([state.window, code], dim=1))[:, 4:]
        pulls: list[Tensor] = []
        if self.gravity is not None:
            before = torch.cat([state.last.unsqueeze(1), phases[:, :-1]], dim=1)
            mass = torch.ones(tokens.shape, device=tokens.device)
            if self.config.surprise_mass:
                p, _ = self.crystal.read(before, tokens.unsqueeze(-1))
                mass = -p.squeeze(-2).mean(-1).log()

            def move(x: Tensor) -> Tensor:
                return perturb(
                    x, perturbation, self.config.perturbation_scale, coherence=coherence, generator=generator
                )

            nested = torch.stack(suffixes[1 : self.config.orders + 1], dim=-1)
            pull, gravity = self.gravity(nested, tokens, mass, state.gravity, move)
            state = replace(state, gravity=gravity)
            pulls.append(pull * _PULL_UNIT)
        if self._fast_orders:
            pull, fast = self._fast(suffixes, tokens, state)
            state = replace(state, fast=fast)
            pulls.extend(pull.unbind(2))
        levels += [self._pull_level(pull) for pull in pulls]
        confidence = torch.cat([levels[0], *(level.unsqueeze(-1) for level in levels[1:])], dim=-1)
        gates = self._gates(tokens, place, confidence, coherence)
        last = phases[:, -1] if tokens.shape[1] else state.last
        window = torch.cat([state.window, code], dim=1)[:, -4:]
        state = replace(state, contexts=contexts, last=last, window=window)
        return phases, _Reading(pulls, confidence, gates), state

    def _of_tokens(self, phases: Tensor, reading: _Reading, targets: Tensor) -> Tensor:
        """What each memory gives the targets: ``[B, T, C]``."""
        p, _ = self.crystal.read(phases, targets.unsqueeze(-1))
        others = [_distribution(pull).gather(-1, targets.unsqueeze(-1)) for pull in reading.pulls]
        return torch.cat([p.squeeze(-2), *others], dim=-1)

    def _fast(self, suffixes: list[Tensor], tokens: Tensor, state: FieldState) -> tuple[Tensor, Tensor]:
        earlier = state.contexts.recent[:, -1:] - 1  # the token before the first, whose context keys it
        history = nn.functional.pad(state.contexts.recent[:, :-1], (1, 0))
        before, _ = self.phases.suffixes(earlier, history, max(self._fast_orders))
        phases = torch.stack([torch.cat([before[n], suffixes[n]], 1) for n in self._fast_orders], dim=-1)
        codes = phase_harmonics(phases, self._fast_frequencies)
        values = nn.functional.one_hot(tokens, self.config.vocab_size).to(codes.dtype)
        values = values.unsqueeze(2).expand(-1, -1, len(self._fast_orders), -1)
        read, fast = hebbian_scan(codes[:, 1:], codes[:, :-1], values, initial_state=state.fast)
        return (read - 0.5).clamp_min(0), fast  # half a trace is crosstalk

    def _gates(self, tokens: Tensor, place: Tensor, confidence: Tensor, coherence: Tensor) -> Tensor:
        well_known = confidence[..., : len(self.phases.names)] >= _SEEN_TWICE
        suffixes, words = well_known[..., self._is_suffix].sum(-1), well_known[..., ~self._is_suffix].sum(-1)
        longest = (~self._is_suffix).sum() + 1
        coherent = (
            (coherence * 8).long().clamp(0, 7) + 1 if self.config.coherence_gate else coherence.long() * 0
        )
        return torch.stack(
            [tokens % 256 + 1, place.clamp(-10, 10) + 10, suffixes * longest + words, coherent], dim=-1
        )

    @staticmethod
    def _pull_level(pull: Tensor) -> Tensor:
        total = pull.sum(-1)
        return confidence_level(total, (pull > 0.2 * total.unsqueeze(-1)).sum(-1))


_SEEN_TWICE = 6
"""The lowest confidence level of a context that was seen at least twice."""


def _distribution(pull: Tensor) -> Tensor:
    return (pull + _BLUR / pull.shape[-1]) / (pull.sum(-1, keepdim=True) + _BLUR)


def _parents(names: tuple[str, ...]) -> tuple[int, ...]:
    """Which context each backs off to: the next shorter one that is there before it."""
    word_parents = {"w": ["3", "2", "1", "0"], "w1": ["w"], "w2": ["w1", "w"], "ws": ["w"]}
    parents = []
    for place, name in enumerate(names):
        if name.isdigit():
            shorter = [other for other in names[:place] if other.isdigit() and int(other) < int(name)]
            wanted = sorted(shorter, key=int, reverse=True)
        else:
            wanted = [*word_parents[name], "3", "2", "1", "0"]
        parents.append(next((names.index(other) for other in wanted if other in names[:place]), -1))
    return tuple(parents)
