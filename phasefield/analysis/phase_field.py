"""A phase-field model while it reads: what states and memories hold on to, how long, and what parts add.

Positions and distances are in tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import phase_hebbian_scan
from phasefield_kernels.pairs import as_complex

from ..comparison.store import as_json
from ..data import Tokenizer
from ..errors import UserError
from ..models import PhaseField
from ..models.phase_field.backbones.stack import Recurrence
from ..models.phase_field.interfaces import map_tensors
from ..models.phase_field.memories import MatrixMemory
from ..training.durable import replace_text
from .phase_field_pictures import draw_phase_field

NEEDLE_LENGTHS = (1024, 4096, 16_384)
"""Of the texts that :func:`analyze` hides needles in."""
PORTRAITS = 6
"""States whose paths are kept, of the backbone's last layer."""
_CHUNK = 1024


@dataclass(frozen=True)
class Needle:
    """How well tokens said at the beginning of a text are said again at its end, at their first half's cue.

    Attributes:
        length: tokens between.
        accuracy: the share of tokens that are the likeliest.
        gain: nats a token that having read them is worth, against having read others.
    """

    length: int
    accuracy: float
    gain: float


@dataclass(frozen=True)
class Observation:
    """What was seen of a model that read T tokens.

    Attributes:
        symbols: the tokens as text.
        nats: a token, the model as it is.
        without: nats a token more if a bank or memory (``banks.context``) gives 0 instead.
        energy: each bank's share of the square of all parts in the coupled stream.
        lifetimes: ``[state_dim]`` tokens in which a state falls to 1/e, a layer of the backbone each; none
            for a backbone without a spectrum (mamba).
        held: ``[T]`` a layer: the share of each position in what the states hold at the end.
        portraits: ``[T, PORTRAITS, 2]``, paths of the last layer's states, from short-lived to long.
        distances: 0, 1, 2, 4, … below T.
        retrieval: by matrix memory, the coherence, up to a turn, of what a key of so many tokens ago reads
            with the value that was written by it; in [0, 1], a mean over positions and heads.
        remembered: by matrix memory, ``[T]``: the same at the end, of each position.
        needles: by length.
    """

    symbols: list[str]
    nats: float
    without: dict[str, float]
    energy: dict[str, float]
    lifetimes: list[Tensor]
    held: list[Tensor]
    portraits: Tensor
    distances: list[int]
    retrieval: dict[str, list[float]]
    remembered: dict[str, Tensor]
    needles: list[Needle]


def analyze(model: PhaseField, tokenizer: Tokenizer, text: str, save_path: Path) -> dict[str, Any]:
    """Draw ``save_path`` and write the numbers (JSON) beside it; return the numbers.

    Raises:
        UserError: the text has fewer than 4 tokens.
        OSError: a file cannot be written.
    """
    seen = observe(model, tokenizer, text)
    numbers: dict[str, Any] = {"tokens": len(seen.symbols), "nats_per_token": seen.nats}
    if seen.lifetimes:
        every = torch.cat(seen.lifetimes)
        numbers["median_lifetime"] = float(every.median())
        numbers["longest_lifetime"] = float(every.max())
    numbers |= {
        "needle_gain_at_the_longest": seen.needles[-1].gain,
        "nats_without": seen.without,
        "bank_energy": seen.energy,
        "symbols": seen.symbols,
        "lifetimes": [layer.tolist() for layer in seen.lifetimes],
        "held": [layer.tolist() for layer in seen.held],
        "portraits": seen.portraits.tolist(),
        "distances": seen.distances,
        "retrieval_coherence": seen.retrieval,
        "remembered": {name: values.tolist() for name, values in seen.remembered.items()},
        "needles": [vars(needle) for needle in seen.needles],
    }
    replace_text(save_path.with_suffix(".json"), as_json(numbers))
    draw_phase_field(save_path, seen)
    return numbers


@torch.no_grad()
def observe(
    model: PhaseField, tokenizer: Tokenizer, text: str, lengths: Sequence[int] | None = None
) -> Observation:
    """Let a model in evaluation mode read a text from nothing.

    Args:
        lengths: see :func:`find_needles`; :data:`NEEDLE_LENGTHS` if None.

    Raises:
        UserError: the text has fewer than 4 tokens.
    """
    tokens = tokenizer.encode(text).unsqueeze(0).to(next(model.parameters()).device)
    length = tokens.shape[1]
    if length < 4:
        raise UserError(f"the text {text!r} has {length} tokens; it needs at least 4 to look back on.")
    with _heard(model, (Recurrence, MatrixMemory)) as heard:
        _, parts, _ = model.stream(tokens)
    energies = torch.stack([part.square().sum() for part in parts])
    recurrences = [(module, *given) for module, given in heard if isinstance(module, Recurrence)]
    lifetimes, held = [], []
    for recurrence, (v, u, _), _ in recurrences:
        log_decay, written = recurrence.footprint(v[0], u[0])
        lifetimes.append(-1 / log_decay.mean(0))
        # What is written at j is left by all tokens behind it.
        left = log_decay.flip(0).cumsum(0).flip(0) - log_decay
        by_state = (left.exp() * written) / (left.exp() * written).sum(0).clamp_min(1e-30)
        held.append(by_state.mean(1))
    names = {memory: name for name, memory in model.memories.items()}
    distances = [0, *(2**power for power in range(20) if 2**power < length - 1)]
    retrieval, remembered = {}, {}
    for memory, (arguments, (_, state)) in heard:
        if isinstance(memory, MatrixMemory):
            retrieval[names[memory]], remembered[names[memory]] = _recalled(
                memory, arguments[0], state.matrices, distances
            )
    return Observation(
        symbols=[tokenizer.decode([token]) for token in tokens[0].tolist()],
        nats=(nats := _nats(model, tokens)),
        without={name: _nats_without(model, part, tokens) - nats for name, part in _parts(model)},
        energy=dict(zip(model.banks, (energies / energies.sum()).tolist(), strict=True)),
        lifetimes=lifetimes,
        held=held,
        portraits=_portraits(recurrences, lifetimes, length),
        distances=distances,
        retrieval=retrieval,
        remembered=remembered,
        needles=find_needles(model, tokens[0], NEEDLE_LENGTHS if lengths is None else lengths),
    )


@torch.no_grad()
def find_needles(
    model: nn.Module, haystack: Tensor, lengths: Sequence[int], *, needles: int = 4, tokens: int = 16
) -> list[Needle]:
    """Say some tokens, then a text of each length; then their first half again, and see what comes.

    One stream for all lengths, in constant memory. Each needle's gain is against the answer that the same cue
    gets after another needle.

    Args:
        model: offers ``model(tokens, state)``, in evaluation mode; its state's tensors have the batch first.
        haystack: int64 ``[N]``, said again and again until it is long enough.
        lengths: rising.
        needles: read at once, at least 2.
        tokens: a needle, drawn evenly from those of the haystack.
    """
    vocabulary, generator = haystack.unique(), torch.Generator().manual_seed(0)
    drawn = torch.randint(len(vocabulary), (needles, tokens), generator=generator)
    needle = vocabulary[drawn.to(vocabulary.device)]
    _, state = model(needle)
    found, place = [], 0
    for length in lengths:
        while place < length:
            size = min(_CHUNK, length - place)
            at = torch.arange(place, place + size, device=haystack.device) % len(haystack)
            _, state = model(haystack[at].expand(needles, -1), state)
            place += size
        others = map_tensors(state, lambda tensor: tensor.roll(1, 0))
        (right, own), (_, other) = (_said_again(model, needle, given) for given in (state, others))
        found.append(Needle(length, right, own - other))
    return found


def _said_again(model: nn.Module, needle: Tensor, state: Any) -> tuple[float, float]:
    """The share of a needle's second half that is likeliest after its first, and its mean log-likelihood."""
    cue = needle.shape[1] // 2
    logits, _ = model(needle[:, :-1], state)
    log_p = logits[:, cue - 1 :].float().log_softmax(-1)
    answer = needle[:, cue:]
    likelihood = log_p.gather(-1, answer.unsqueeze(-1)).mean()
    return float((log_p.argmax(-1) == answer).float().mean()), float(likelihood)


def _recalled(
    memory: MatrixMemory, x: Tensor, state: Tensor, distances: list[int]
) -> tuple[list[float], Tensor]:
    """Retrieval coherence by distance, and of each position ``[T]`` at the end (0 of the first: no key)."""
    _, k, *written = memory.controls(x)
    k, (v, log_decay, beta, mix) = k[:, :-1], (t[:, 1:] for t in written)
    by_distance = []
    for distance in distances:
        # Positions before the beginning are asked for nothing, and left out of the mean.
        asked = F.pad(k, (0, 0) * (k.ndim - 2) + (distance, 0))[:, : k.shape[1]]
        y, _ = phase_hebbian_scan(asked, k, v, log_decay, beta, "delta", n_states=memory.states, mix=mix)
        likeness = _coherence(y[:, distance:], v[:, : v.shape[1] - distance])
        by_distance.append(float(likeness.mean()))
    states, keys, last = (as_complex(t) for t in (state.float(), k.float(), mix[:, -1].float()))
    read = torch.einsum("bhsvk,bthk,bhs->bthv", states, keys, last)
    return by_distance, F.pad(_coherence(torch.view_as_real(read), v.float())[0].mean(-1), (1, 0))


def _coherence(a: Tensor, b: Tensor) -> Tensor:
    """``|Σ_d a_d conj(b_d)| / (‖a‖ ‖b‖)``: likeness up to a turn of one of them."""
    a, b = as_complex(a), as_complex(b)
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (a * b.conj()).sum(-1).abs() / lengths.clamp_min(1e-30)


def _portraits(recurrences: list[Any], lifetimes: list[Tensor], length: int) -> Tensor:
    if not recurrences:
        return torch.zeros(length, 0, 2)
    _, _, (h, _) = recurrences[-1]
    order = lifetimes[-1].argsort()
    chosen = torch.linspace(0, len(order) - 1, min(PORTRAITS, len(order))).round().long()
    return h[0, :, order[chosen.to(order.device)]]


def _parts(model: PhaseField) -> Iterator[tuple[str, nn.Module]]:
    for kind in ("banks", "memories"):
        yield from ((f"{kind}.{name}", part) for name, part in getattr(model, kind).items())


def _nats(model: PhaseField, tokens: Tensor) -> float:
    return float(model.loss(tokens[:, :-1], tokens[:, 1:]).terms["content"])


def _nats_without(model: PhaseField, part: nn.Module, tokens: Tensor) -> float:
    hook = part.register_forward_hook(lambda part, given, output: (torch.zeros_like(output[0]), output[1]))
    try:
        return _nats(model, tokens)
    finally:
        hook.remove()


@contextmanager
def _heard(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[list[tuple[nn.Module, Any]]]:
    """What modules of these kinds are given and give back, in the order of their calls."""
    heard: list[tuple[nn.Module, Any]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, output: heard.append((module, (given, output))))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
