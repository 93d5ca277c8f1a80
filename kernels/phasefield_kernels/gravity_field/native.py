"""gravity_field in C (native.c): how its tensors are given, and what is added up after it."""

import torch
from torch import Tensor

from ..native import call, plain
from . import blocked

OP = "gravity_field"

_FORWARD, _BACKWARD = 0.02, 0.06  # nanoseconds a pair and dimension
_FEW = 4  # fewer sequences than these are cut into _SHARDS; each reads all sources
_SHARDS = 4
_NO_WINDOW = 1 << 40


def forward(
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """The force on every point; arguments as in the public function."""
    field = _Field(x, mass, source, strength, softening, causal, window)
    force = torch.empty(x.shape)
    field.run(_FORWARD, None, force, None, None, None)
    return force.to(x.dtype)


def backward(
    grad: Tensor,
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, mass and source, those that are needed: the mathematics is in blocked.py."""
    for_x, for_mass, for_source = needs
    for_source = for_source or (for_x and source is None)
    field = _Field(x, mass, source, strength, softening, causal, window)
    sources = field.sources
    grad_x = torch.empty(x.shape) if for_x else None
    at_sources = torch.empty(field.shards, *sources.shape) if for_source else None
    c_sums, work = (torch.empty(field.shards, *sources.shape[:2]) for _ in range(2))
    field.run(_BACKWARD, plain(grad), grad_x, at_sources, c_sums, work)
    grad_source = None
    if for_source:
        grad_source = at_sources.sum(0).addcmul_(sources, c_sums.sum(0).unsqueeze(-1), value=-1)
        grad_source.mul_(strength if mass is None else strength * mass.float().unsqueeze(-1))
    if source is None:
        grad_x, grad_source = grad_x.add_(grad_source) if for_x else None, None
    grad_mass = work.sum(0).mul_(strength / 3).to(mass.dtype) if for_mass else None
    grad_x, grad_source = (None if g is None else g.to(x.dtype) for g in (grad_x, grad_source))
    return grad_x, grad_mass, grad_source


class _Field:
    """What both directions give to the kernel."""

    def __init__(
        self,
        x: Tensor,
        mass: Tensor | None,
        source: Tensor | None,
        strength: float,
        softening: float,
        causal: bool,
        window: int | None,
    ) -> None:
        self.points, self.mass = plain(x), plain(mass)
        self.sources = self.points if source is None else plain(source)
        self.numbers = torch.tensor([strength, softening, blocked.NEAR], dtype=torch.float64)
        self.shards = 1 if x.shape[0] >= _FEW else _SHARDS
        before = 0 if source is None else source.shape[1]
        self.pairs = causal or source is not None, before, _NO_WINDOW if window is None else window

    def run(self, cost: float, grad: Tensor | None, y: Tensor | None, *at_sources: Tensor | None) -> None:
        """Forces, or given their gradient the sums that are not None."""
        batch, length, width = self.points.shape
        count = self.sources.shape[1]
        sizes = (
            *(batch, self.shards, length, count, width),
            *(*self.pairs, grad is not None, y is not None, at_sources[0] is not None),
        )
        tensors = (self.points, self.sources, self.mass, self.numbers, grad, y, *at_sources)
        call(OP, "gravity_field", batch * self.shards, cost * batch * length * count * width, sizes, tensors)
