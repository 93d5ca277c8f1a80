"""The field model: a crystal, gravity and a Born mixture, all of which learn without back-propagation."""

from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from phasefield_kernels import hebbian_scan

from ...layers.coherence import window_coherence
from ...layers.contexts import ContextPhases, back_off
from ...layers.crystal import CrystalMemory
from ...layers.golden import golden_frequencies, phase_code, phase_harmonics
from ...layers.gravity import GravityMemory, NestedCode
from ...layers.mixture import BornMixture, confidence_level
from ...layers.perturbation import Kind, perturb
from ...layers.state_readout import StateReadout
from ..base import ModelLoss
from .config import DTYPES, FieldConfig
from .state import FieldState, Reading

_BLUR = 0.02
"""Evidence that a sequence's memories give to all tokens alike, so that none has probability 0."""
_PULL_UNIT = 0.175
"""Of a pull in units of one trace: a particle that agrees in everything pulls with about 250."""
_READ_OUT = 8.0
"""The evidence that a read-out counts for."""
_COHERENCE_BINS = 1000
_BLOCK = 256
"""Tokens whose changes of the mixture's weights are summed before the next ones see them."""


class Field(nn.Module):
    """Tokens are golden angles; memories of what followed them predict; a Born mixture makes one.

    1. Every context of a position (the last n tokens, the word) is one bound golden phase.
    2. The crystal holds Hebbian traces of what followed each context in all that was learnt.
    3. The tokens of the sequence itself are particles; test particles at the present context are pulled to
       what followed contexts like it. A token's mass is the crystal's surprise at it.
    4. The mixture weighs all predictions by their confidence, the last token, the place in the word and the
       field's coherence.

    Nothing has a gradient: there are no parameters, only buffers, which :meth:`learn_` changes locally.

    >>> model = Field(FieldConfig(4, contexts="0 1 2", sites=64))
    >>> tokens = torch.arange(41)[None] % 4
    >>> before = model.learn_(tokens[:, :-1], tokens[:, 1:], rate=0.1)
    >>> after = model.loss(tokens[:, :-1], tokens[:, 1:])
    >>> bool(after.total < 0.2 * before.total), sum(1 for _ in model.parameters())
    (True, 0)
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        names = tuple(config.contexts.split())
        self.phases = ContextPhases(config.vocab_size, names)
        dtype = DTYPES[config.state_dtype]
        self.crystal = CrystalMemory(config.vocab_size, back_off(names), config.sites, dtype)
        self.gravity = None
        if config.horizon:
            self.gravity = GravityMemory(
                config.vocab_size,
                orders=config.orders,
                width=config.order_width,
                horizon=config.horizon,
                embedding=config.embedding,
            )
        self._fast_orders = (3, 5) if config.fast_weights else ()
        self.register_buffer("_fast_frequencies", golden_frequencies(64), persistent=False)
        self.register_buffer("_code_frequencies", golden_frequencies(16), persistent=False)
        self.states = NestedCode(config.orders, config.order_width, config.embedding)
        self.readout = None
        if config.matrix_rule != "none":
            self.readout = StateReadout(self.states.dim, config.vocab_size, config.matrix_rule)
        others = (self.gravity is not None) + (self.readout is not None)
        memories = len(names) + others + len(self._fast_orders)
        suffixes = sum(name.isdigit() for name in names)
        words = len(names) - suffixes
        is_suffix = torch.tensor([name.isdigit() for name in names])
        self.register_buffer("_is_suffix", is_suffix, persistent=False)
        self.mixture = BornMixture(memories, (257, 22, (suffixes + 1) * (words + 1), 9))
        # How often learning met which coherence: its quantiles calibrate the collapse.
        self.register_buffer("coherences", torch.zeros(_COHERENCE_BINS, dtype=torch.int64))

    def set_boundaries(self, boundary: Tensor) -> None:
        """Say which tokens stand between words, bool ``[V]``; none do before."""
        self.phases.boundary.copy_(boundary)

    def adaptable(self) -> list[tuple[str, int]]:
        """How many numbers learning can change, by part; the crystal's are its capacity."""
        return [
            ("crystal's contexts, occurrences and followers", self.crystal.contexts.amplitudes.numel()),
            ("crystal's bonds", self.crystal.bonds.amplitudes.numel()),
            ("mixture's weights", self.mixture.by_confidence.numel() + self.mixture.by_gate.numel()),
        ] + ([] if self.readout is None else [("matrix and read-out", _numbers(self.readout))])

    def init_state(self, batch: int) -> FieldState:
        """Of sequences that have not begun."""
        device = self.phases.boundary.device
        return FieldState(
            self.phases.init_state(batch),
            self.phases.empty().expand(batch, -1),
            None if self.gravity is None else self.gravity.init_state(batch),
            torch.zeros(batch, len(self._fast_orders), self.config.vocab_size, 128, device=device),
            torch.zeros(batch, 4, 3 if self.config.embedding == "cone" else 32, device=device),
        )

    def forward(
        self,
        tokens: Tensor,
        state: FieldState | None = None,
        *,
        perturbation: Kind = "none",
        collapse: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, FieldState]:
        """Log-probabilities ``[B, T, vocab_size]`` of what follows each of ``[B, T]``, and the state.

        Args:
            tokens: ``[B, T]``.
            state: of the sequences so far.
            perturbation: of the field.
            collapse: where the field is at least so coherent, the mixed state collapses to the predictor of
                the largest weight; see :meth:`coherence_quantile`. None keeps it mixed.
            generator: of the perturbation.
        """
        reading, state = self.read(tokens, state, perturbation, generator)
        vocabulary = torch.arange(self.config.vocab_size, device=tokens.device)
        phases, rows = reading.phases, []
        for t in range(0, tokens.shape[1], 16):  # all candidates of all contexts at once are many
            part = slice(t, t + 16)
            every = vocabulary.expand(*phases[:, part].shape[:2], -1)
            p = self.crystal.read(phases[:, part], every, reading.evidence[:, part])
            others = [_distribution(pull[:, part]).unsqueeze(-1) for pull in reading.pulls]
            weights = self.mixture(reading.confidence[:, part], reading.gates[:, part])
            if collapse is not None:
                pure = nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights.dtype)
                weights = torch.where(reading.coherence[:, part, None] >= collapse, pure, weights)
            rows.append((torch.cat([p, *others], dim=-1) * weights.unsqueeze(-2)).sum(-1))
        logits = torch.cat(rows, dim=1) if rows else phases.new_zeros(*tokens.shape, len(vocabulary)).float()
        return logits.log().log_softmax(-1), state

    def step(
        self,
        token: Tensor,
        state: FieldState,
        *,
        perturbation: Kind = "none",
        collapse: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, FieldState]:
        """One token ``[B]`` → log-probabilities ``[B, vocab_size]`` of the next, and the new state.

        The options are :meth:`forward`'s.
        """
        logits, state = self(
            token.unsqueeze(1), state, perturbation=perturbation, collapse=collapse, generator=generator
        )
        return logits.squeeze(1), state

    def coherence_quantile(self, share: float) -> float:
        """The coherence that a share of the positions learnt from stay below, to a thousandth.

        Raises:
            ValueError: a share outside (0, 1], or a model that has learnt nothing yet.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
        below = self.coherences.cumsum(0)
        if not below[-1]:
            raise ValueError("the model has learnt nothing yet: there is no coherence to take a quantile of.")
        return (int((below < share * below[-1]).sum()) + 1) / _COHERENCE_BINS

    def loss(self, tokens: Tensor, targets: Tensor, state: FieldState | None = None) -> ModelLoss:
        """Mean cross-entropy of ``targets`` ``[B, T]`` after ``tokens`` ``[B, T]``; nothing is learnt."""
        reading, state = self.read(tokens, state)
        p = self._of_tokens(reading, targets)
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
        """Predict ``targets``, then learn from them: first the mixture's weights, then the memories.

        Args:
            tokens: ``[B, T]``.
            targets: ``[B, T]``, what followed them.
            state: of the sequences so far.
            rate: η of the mixture's delta rule, and of the read-out's.
            perturbation: of the field.
            generator: of the perturbation and of stochastic rounding.

        Returns:
            The loss before anything of it was learnt.
        """
        reading, state = self.read(tokens, state, perturbation, generator)
        p = self._of_tokens(reading, targets)
        # Time first: a block holds neighbours from as many sequences as there are.
        rows = [x.transpose(0, 1).flatten(0, 1).split(_BLOCK) for x in (p, reading.confidence, reading.gates)]
        scores = [self.mixture.learn_(*block, rate) for block in zip(*rows, strict=True)]
        self.crystal.learn_(reading.phases, targets, generator)
        if self.readout is not None and targets.numel():
            suffixes, _ = self.phases.suffixes(targets[:, -1:], state.contexts.recent, self.config.orders)
            states = self.states(torch.cat([reading.nested, torch.stack(suffixes[1:], dim=-1)], dim=1))
            pairs = (x.transpose(0, 1).flatten(0, 1) for x in (states[:, :-1], states[:, 1:], targets))
            self.readout.learn_(*pairs, rate)
        bins = (reading.coherence.flatten() * _COHERENCE_BINS).long().clamp_max(_COHERENCE_BINS - 1)
        self.coherences += torch.bincount(bins, minlength=_COHERENCE_BINS)
        content = -torch.cat(scores).mean()
        return ModelLoss(content, {"content": content}, state)

    def forget_(self, tokens: Tensor, targets: Tensor, generator: torch.Generator | None = None) -> None:
        """Take back the crystal's traces of a batch that was learnt from its start.

        What the crystal has learnt it knows better than it will know a new text, so a batch that comes again
        is forgotten before :meth:`learn_` predicts it: the mixture learns what they are worth on new text.
        """
        phases, _, _ = self.phases(tokens)
        self.crystal.learn_(phases, targets, generator, forget=True)

    def merge_(self, other: "Field", generator: torch.Generator | None = None) -> None:
        """Learn what another model has learnt: its crystal's traces, as if they had been written here.

        The weights of the mixture (and of the read-out and its matrix, if there are) become the mean of both,
        each counted by the tokens that it learnt from.

        Args:
            other: a model of the same config, which learnt the same tokens.
            generator: of stochastic rounding, for 16-bit bonds.

        Raises:
            ValueError: the other has another config, or other tokens between words.
        """
        mine, its = asdict(self.config), asdict(other.config)
        for name in (name for name in mine if mine[name] != its[name]):
            raise ValueError(f"other has {name} {its[name]!r}; it must have {mine[name]!r}, as this model.")
        if not torch.equal(self.phases.boundary, other.phases.boundary):
            raise ValueError("other has other tokens between words; the same must stand there.")
        share = float(other.coherences.sum() / (self.coherences + other.coherences).sum().clamp_min(1))
        theirs = other.state_dict()
        for name, weight in self.state_dict().items():
            if name.startswith(("mixture.", "readout.")):
                weight.lerp_(theirs[name], share)
        self.coherences += other.coherences
        self.crystal.merge_(other.crystal, generator)

    def read(
        self,
        tokens: Tensor,
        state: FieldState | None = None,
        perturbation: Kind = "none",
        generator: torch.Generator | None = None,
    ) -> tuple[Reading, FieldState]:
        """What the memories say at each of ``tokens`` ``[B, T]``, and the state behind them."""
        state = self.init_state(len(tokens)) if state is None else state
        phases, place, contexts = self.phases(tokens, state.contexts)
        trail = torch.cat([state.last.unsqueeze(1), phases], dim=1)
        known = self.crystal.evidence(trail)
        evidence = known[:, 1:]
        levels = [confidence_level(evidence[..., 0], evidence[..., 1])]
        suffixes, _ = self.phases.suffixes(tokens, state.contexts.recent, max(self.config.orders, 5))
        code = phase_code(suffixes[2], self._code_frequencies, self.config.embedding)
        coherence = window_coherence(torch.cat([state.window, code], dim=1))[:, 4:]
        # A window that is not full yet would look coherent, as it begins with a leap from nothing.
        earlier = torch.cat([state.contexts.recent[:, -4:], tokens + 1], dim=1)
        coherence = coherence * (earlier[:, : tokens.shape[1]] > 0)
        nested = torch.stack(suffixes[1 : self.config.orders + 1], dim=-1)
        pulls: list[Tensor] = []
        if self.gravity is not None:
            mass = self.masses(trail[:, :-1], tokens, known[:, :-1])

            def move(x: Tensor) -> Tensor:
                return perturb(
                    x, perturbation, self.config.perturbation_scale, coherence=coherence, generator=generator
                )

            pull, gravity = self.gravity(nested, tokens, mass, state.gravity, move)
            state = replace(state, gravity=gravity)
            pulls.append(pull * _PULL_UNIT)
        if self._fast_orders:
            pull, fast = self._fast(suffixes, tokens, state)
            state = replace(state, fast=fast)
            pulls.extend(pull.unbind(2))
        if self.readout is not None:
            pulls.append(self.readout(self.states(nested)) * _READ_OUT)
        levels += [self._pull_level(pull) for pull in pulls]
        confidence = torch.cat([levels[0], *(level.unsqueeze(-1) for level in levels[1:])], dim=-1)
        gates = self._gates(tokens, place, confidence, coherence)
        window = torch.cat([state.window, code], dim=1)[:, -4:]
        state = replace(state, contexts=contexts, last=trail[:, -1], window=window)
        return Reading(phases, evidence, pulls, confidence, gates, coherence, nested), state

    def masses(self, before: Tensor, tokens: Tensor, evidence: Tensor) -> Tensor:
        """Of the particles that ``tokens`` ``[B, T]`` become behind contexts ``before`` ``[B, T, C]``.

        Args:
            before: the contexts.
            tokens: that followed.
            evidence: of the contexts, see :meth:`~phasefield.layers.CrystalMemory.evidence`.
        """
        if not self.config.surprise_mass:
            return torch.ones(tokens.shape, device=tokens.device)
        p = self.crystal.read(before, tokens.unsqueeze(-1), evidence)
        return -p.squeeze(-2).mean(-1).log()

    def _of_tokens(self, reading: Reading, targets: Tensor) -> Tensor:
        """What each memory gives the targets: ``[B, T, M]``."""
        p = self.crystal.read(reading.phases, targets.unsqueeze(-1), reading.evidence)
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
        read, fast = hebbian_scan(
            codes[:, 1:], codes[:, :-1], values, rule=self.config.fast_rule, initial_state=state.fast
        )
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


def _numbers(module: nn.Module) -> int:
    return sum(buffer.numel() for name, buffer in module.named_buffers() if name.endswith("weight"))


def _distribution(pull: Tensor) -> Tensor:
    return (pull + _BLUR / pull.shape[-1]) / (pull.sum(-1, keepdim=True) + _BLUR)
