"""What a field model keeps of a sequence, and what it reads at each token."""

from dataclasses import dataclass

from torch import Tensor

from ...layers.contexts import ContextState
from ...layers.gravity import GravityState


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
class Reading:
    """What the memories say before the next token is known, and how sure they are.

    Attributes:
        phases: ``[B, T, C]`` int64, the contexts.
        evidence: ``[B, T, C, 2]``, how often the crystal met each context, and how many followers it has.
        pulls: of gravity, of the fast weights and of the read-out, ``[B, T, V]`` each.
        confidence: ``[B, T, M]`` levels of all predictors.
        gates: ``[B, T, G]``, what the mixture's weights depend on besides.
        coherence: ``[B, T]`` of the field's last five states; 0 where there are fewer.
        nested: ``[B, T, R]`` int64, phases of the last 1, 2, …, R tokens.
    """

    phases: Tensor
    evidence: Tensor
    pulls: list[Tensor]
    confidence: Tensor
    gates: Tensor
    coherence: Tensor
    nested: Tensor
