"""Contexts as bound golden phases: one 64-bit angle for the last few tokens or for a word."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .golden import golden_frequencies

LONGEST = 24
"""Most tokens that a context of the last n tokens can hold."""
_WORD_LAGS = 64  # positions in a word after which the frequencies repeat


@dataclass(frozen=True)
class ContextState:
    """What the contexts of the next tokens need from those before.

    Attributes:
        recent: ``[B, 24]`` int64, the last tokens plus 1, 0 where there were none.
        word: ``[B, 4]`` int64: phases of the current word, the one before, the one before that, and the
            position in the current word.
    """

    recent: Tensor
    word: Tensor


class ContextPhases(nn.Module):
    """Binds tokens to phases: ``θ = Σ_k (i_{t-k} + 1) · α_k  mod 1``, as 64-bit integers.

    Lag k turns by its own irrational frequency, so different contexts have different angles: among a
    million contexts the chance of one coincidence is 10^-7. Kinds of contexts, by name:

    - ``n`` (a digit or two): the last n tokens; ``0`` is the empty context.
    - ``w``: the current word so far; between words, the marks since the last one.
    - ``w1``, ``w2``: that with one, with two words before.
    - ``ws``: that with the word before the last one only (a skip).

    A word is a run of tokens that are no boundary; which are boundaries (spaces, marks) is :attr:`boundary`.

    Args:
        vocab_size: of the tokens.
        names: the contexts, in this order in the output.

    >>> contexts = ContextPhases(5, ("0", "1", "2"))
    >>> phases, _, _ = contexts(torch.tensor([[3, 1, 4, 3, 1, 2]]))
    >>> (phases[0, 1] == phases[0, 4]).tolist()  # behind "3 1", both times
    [True, True, True]
    >>> (phases[0, 0] == phases[0, 3]).tolist()  # behind "3": the token before it differs
    [True, True, False]
    """

    def __init__(self, vocab_size: int, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            known = name in ("w", "w1", "w2", "ws") or (name.isdigit() and int(name) <= LONGEST)
            if not known:
                raise ValueError(
                    f"a context is named {name!r}; allowed are 0 to {LONGEST}, 'w', 'w1', 'w2', 'ws'."
                )
        self.names = names
        frequencies = golden_frequencies(LONGEST + _WORD_LAGS + 4)
        self._lags = frequencies[:LONGEST]
        self._word_lags = frequencies[LONGEST : LONGEST + _WORD_LAGS]
        self._roles = frequencies[LONGEST + _WORD_LAGS :].tolist()
        self.register_buffer("boundary", torch.zeros(vocab_size, dtype=torch.bool))

    def init_state(self, batch: int) -> ContextState:
        """Of sequences that have not begun."""
        device = self.boundary.device
        return ContextState(
            torch.zeros(batch, LONGEST, dtype=torch.int64, device=device),
            torch.zeros(batch, 4, dtype=torch.int64, device=device),
        )

    def forward(
        self, tokens: Tensor, state: ContextState | None = None
    ) -> tuple[Tensor, Tensor, ContextState]:
        """The contexts that end with each of ``tokens`` ``[B, T]``.

        Returns:
            ``(phases, place, state)``: phases ``[B, T, C]`` int64; place ``[B, T]``, how many tokens of its
            word have come, negative for the marks between words; the state.
        """
        state = self.init_state(len(tokens)) if state is None else state
        suffixes, recent = self.suffixes(tokens, state.recent)
        word, before, earlier, place, carried = self._words(tokens, state.word)
        roles = self._roles
        phases = {
            "w": word * roles[0],
            "w1": word * roles[0] + before * roles[1],
            "w2": word * roles[0] + before * roles[1] + earlier * roles[2],
            "ws": word * roles[0] + earlier * roles[2],
        }
        found = [suffixes[int(name)] if name.isdigit() else phases[name] for name in self.names]
        # Kinds must differ even where their sums agree (the empty context, the first word).
        return torch.stack(found, dim=-1) + self.empty(), place, ContextState(recent, carried)

    def empty(self) -> Tensor:
        """The phases ``[C]`` of contexts without tokens."""
        kinds = torch.arange(1, len(self.names) + 1, device=self.boundary.device)
        return kinds * self._roles[3]

    def suffixes(self, tokens: Tensor, recent: Tensor, longest: int = LONGEST) -> tuple[list[Tensor], Tensor]:
        """Phases ``[B, T]`` of the last 0, 1, …, ``longest`` tokens, and the tokens to carry on with."""
        length = tokens.shape[1]
        history = torch.cat([recent, tokens + 1], dim=1)
        phases = [torch.zeros_like(tokens)]
        for lag in range(longest):
            first = LONGEST - lag
            turned = history[:, first : first + length] * int(self._lags[lag])
            phases.append(phases[-1] + turned)
        return phases, history[:, -LONGEST:]

    def _words(self, tokens: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        # A run is a word or the marks between two words. Position by position a run adds its tokens' turns;
        # a run's phase is the running sum of turns minus what it was at the run's start.
        batch, length = tokens.shape
        if length == 0:
            return tokens, tokens, tokens, tokens, carried
        inside = ~self.boundary[tokens]
        was_inside = torch.cat([carried[:, 3:] > 0, inside[:, :-1]], dim=1)
        starts = inside != was_inside
        at = torch.arange(length, device=tokens.device).expand(batch, length)
        start = torch.where(starts, at, -1).cummax(dim=1).values
        begun = carried[:, 3:].abs()
        position = torch.where(start >= 0, at - start, at + begun)
        turns = (tokens + 1) * self._word_lags.to(tokens.device)[position % _WORD_LAGS]
        sums = turns.cumsum(1)
        before_start = torch.where(start > 0, sums.gather(1, (start - 1).clamp_min(0)), 0)
        run = sums - before_start + torch.where(start < 0, carried[:, :1], 0)
        # Words end where marks begin: shift the words known so far.
        ends = starts & ~inside
        previous_run = torch.cat([carried[:, :1], run[:, :-1]], dim=1)
        number = ends.cumsum(1)
        words = torch.zeros(batch, length + 2, dtype=torch.int64, device=tokens.device)
        words[:, 0], words[:, 1] = carried[:, 2], carried[:, 1]
        slot = torch.where(ends, number + 1, length + 2)
        words = torch.cat([words, words.new_zeros(batch, 1)], dim=1).scatter(1, slot, previous_run)
        before, earlier = words.gather(1, number + 1), words.gather(1, number)
        signed = torch.where(inside, position + 1, -(position + 1))
        last = torch.stack([run[:, -1], before[:, -1], earlier[:, -1], signed[:, -1]], dim=1)
        return run, before, earlier, signed, last


def back_off(names: tuple[str, ...]) -> tuple[int, ...]:
    """Which context each backs off to: the next shorter one that is there before it, −1 for none."""
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
