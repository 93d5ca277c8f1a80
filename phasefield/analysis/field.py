"""A field while it reads: where its tokens stand and fall, what pulls them, its coherence, its crystal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..comparison.store import as_json
from ..data import Tokenizer
from ..errors import UserError
from ..layers.evolution import FieldEvolution
from ..layers.gravity import GravityMemory
from ..models import Field
from ..training.durable import replace_text
from .field_pictures import animate_field, draw_field

FRAMES = 40
_STEPS = 12
"""Moments of the fall that are drawn, and the midpoint steps between two of them."""
_VOCABULARY = 1024
"""Beyond so many tokens the crystal's matrix is that of the text's own tokens."""


@dataclass(frozen=True)
class Observation:
    """What was seen of a field that read T tokens.

    Attributes:
        symbols: the tokens as text.
        surprise: ``[T - 1]`` nats, at each token but the first.
        coherence: ``[T]``.
        threshold: the coherence that 91 % of what was learnt stays below; 0.91 if nothing was learnt.
        mass: ``[T]``.
        gravity: ``[T, T]``, how much position i feels of token j beyond the background; 0 for j > i.
        paths: ``[FRAMES + 1, T, 2]``, the particles on the manifold's two main axes, falling.
        energy: ``[FRAMES + 1]``, the field's potential energy on the way.
        spectrum: singular values of the crystal's matrix from each token to the next.
        learnt: whether the model has learnt anything.
    """

    symbols: list[str]
    surprise: Tensor
    coherence: Tensor
    threshold: float
    mass: Tensor
    gravity: Tensor
    paths: Tensor
    energy: Tensor
    spectrum: Tensor
    learnt: bool


def analyze(model: Field, tokenizer: Tokenizer, text: str, save_path: Path) -> dict[str, Any]:
    """Draw ``save_path``, an animation (GIF) and write the numbers (JSON) beside it; return the numbers.

    Raises:
        UserError: the text has fewer than 3 tokens.
        OSError: a file cannot be written.
    """
    seen = observe(model, tokenizer, text)
    energy = seen.energy.tolist()
    numbers = {
        "tokens": len(seen.symbols),
        "nats_per_token": float(seen.surprise.mean()),
        "mean_coherence": float(seen.coherence.mean()),
        "collapse_threshold": seen.threshold,
        "coherent_tokens": int((seen.coherence >= seen.threshold).sum()),
        "energy_at_rest": energy[0],
        "energy_after": energy[-1],
        "crystal_rank": float(effective_rank(seen.spectrum)),
        "symbols": seen.symbols,
        "surprise": seen.surprise.tolist(),
        "coherence": seen.coherence.tolist(),
        "mass": seen.mass.tolist(),
        "gravity": seen.gravity.tolist(),
        "energy": energy,
        "spectrum": seen.spectrum.tolist(),
    }
    replace_text(save_path.with_suffix(".json"), as_json(numbers))
    draw_field(save_path, seen)
    animate_field(save_path.with_suffix(".gif"), seen)
    return numbers


def observe(model: Field, tokenizer: Tokenizer, text: str) -> Observation:
    """Let a field read a text from nothing; nothing is learnt.

    Where the model has no gravity (horizon 0), places and pulls are those that it would have.

    Raises:
        UserError: the text has fewer than 3 tokens.
    """
    tokens = tokenizer.encode(text).unsqueeze(0).to(model.coherences.device)
    if tokens.shape[1] < 3:
        raise UserError(f"the text {text!r} has {tokens.shape[1]} tokens; a field needs at least 3 to move.")
    logits, _ = model(tokens)
    reading, _ = model.read(tokens)
    before = torch.cat([model.phases.empty().expand(1, 1, -1), reading.phases[:, :-1]], dim=1)
    mass = model.masses(before, tokens, model.crystal.evidence(before))
    gravity = model.gravity or _gravity_of(model)
    suffixes, _ = model.phases.suffixes(tokens, model.init_state(1).contexts.recent, gravity.orders)
    nested = torch.stack(suffixes[1:], dim=-1)
    places = gravity.code(nested)
    came_to = gravity.code(torch.cat([torch.zeros_like(nested[:, :1]), nested[:, :-1]], dim=1))
    paths, energy = _fall(places, mass)
    learnt = bool(model.coherences.any())
    return Observation(
        symbols=[tokenizer.decode([token]) for token in tokens[0].tolist()],
        surprise=-logits[0, :-1].gather(-1, tokens[0, 1:, None]).squeeze(-1),
        coherence=reading.coherence[0],
        threshold=model.coherence_quantile(0.91) if learnt else 0.91,
        mass=mass[0],
        gravity=_felt(gravity, places[0], came_to[0], mass[0]),
        paths=paths,
        energy=energy,
        spectrum=crystal_spectrum(model, tokens),
        learnt=learnt,
    )


def crystal_spectrum(model: Field, tokens: Tensor) -> Tensor:
    """Singular values of ``p(next | last token)`` as the crystal knows it, largest first.

    The matrix is that of all tokens, or of those in ``tokens`` where the vocabulary is larger than 1,024.
    """
    vocabulary = torch.arange(model.config.vocab_size, device=tokens.device)
    if len(vocabulary) > _VOCABULARY:
        vocabulary = tokens.unique()
    phases, _, _ = model.phases(vocabulary.unsqueeze(1))
    names = model.phases.names
    kind = names.index("1") if "1" in names else 0
    contexts, every = phases[:, 0], vocabulary.expand(len(vocabulary), -1)
    p = model.crystal.read(contexts, every, model.crystal.evidence(contexts))
    return torch.linalg.svdvals(p[..., kind].double()).float()


def effective_rank(spectrum: Tensor) -> Tensor:
    """``exp(H(σ² / Σ σ²))``: how many directions a matrix has, 1 if all rows are alike."""
    share = spectrum.square() / spectrum.square().sum()
    return torch.special.entr(share).sum().exp()


def _gravity_of(model: Field) -> GravityMemory:
    config = model.config
    return GravityMemory(
        config.vocab_size, orders=config.orders, width=config.order_width, embedding=config.embedding
    ).to(model.coherences.device)


def _felt(gravity: GravityMemory, places: Tensor, came_to: Tensor, mass: Tensor) -> Tensor:
    squares = (places.unsqueeze(1) - came_to.unsqueeze(0)).square().sum(-1)
    kernel = (squares + gravity.value_scale**2 + gravity.softening**2) ** -1.5
    return (mass * (kernel - gravity.background).clamp_min(0)).tril()


def _fall(places: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """The particles' paths on their two main axes ``[FRAMES + 1, T, 2]``, and the energy on the way."""
    # A step is shorter than the time in which what has fallen together swings back: g M Δt < ε³.
    softening, strength = 0.3, 1.0
    time_step = softening**3 / (strength * float(mass.sum()))
    step = FieldEvolution(_STEPS, time_step=time_step, strength=strength, softening=softening)
    states = [places]
    for _ in range(FRAMES):
        states.append(step(states[-1], mass))
    energy = torch.cat([step.energy(state, mass) for state in states])
    path = torch.cat(states)
    centre = path[0].mean(0)
    axes = torch.linalg.svd(path[0] - centre, full_matrices=False).Vh[:2]
    return (path - centre) @ axes.T, energy
