"""What a ``bench_<op>.py`` says of its op: inputs, work, peers and the shapes to time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

FORWARD, TRAINING, STEP, STREAM = "forward", "forward+backward", "step", "stream"
"""A race's pass: values; values and all gradients; one decoding step; the sequence in pieces of PIECE."""

PIECE = 4096
LENGTHS = (256, 1024, 4096, 16_384, 65_536, 262_144)
"""Of the scaling rows."""


class Precision(NamedTuple):
    """How a competitor proves that it computes the same: in which dtype, and how exactly.

    Attributes:
        dtype: of all floating-point inputs.
        tolerance: largest error over the largest value, of the output and of every gradient.
    """

    dtype: torch.dtype
    tolerance: float


# Some twenty steps of a few roundings each, which gradients multiply by ten to a hundred; in tf32 and
# bfloat16 a rounding of the factors of each product.
EXACT = Precision(torch.float64, 1e-10)
SINGLE = Precision(torch.float32, 5e-5)
TF32 = Precision(torch.float32, 5e-3)
HALF = Precision(torch.bfloat16, 3e-2)

Shape = Mapping[str, int]
Inputs = dict[str, Tensor]


class Work(NamedTuple):
    """The arithmetic of one forward.

    Attributes:
        flops: additions and multiplications.
        special: exponentials, sines, hyperbolic tangents and roots.
        backward: how often as much the backward takes; 2 where each product has two gradients.
    """

    flops: float
    special: float = 0
    backward: float = 2


@dataclass(frozen=True, eq=False)
class Peer:
    """Another implementation of an op.

    Attributes:
        name: in the tables.
        run: takes what ``layout`` returns, by name, and returns the output. A step's also takes ``state``,
            which it overwrites.
        layout: the op's inputs → the peer's own layout and constants, made before the clock starts.
        restore: the peer's output in the op's layout; only to prove that both are the same.
        package: what must be installed.
        gpu_only: it has no form for a CPU.
        precision: of its proof.
        dtypes: what it takes.
        longest: pass → the longest T for which it is timed.
        why: the reason for ``longest``.
    """

    name: str
    run: Callable[..., Tensor]
    layout: Callable[..., Inputs] = dict
    restore: Callable[[Tensor], Tensor] = lambda output: output
    package: str | None = None
    gpu_only: bool = False
    precision: Precision = EXACT
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16)
    longest: Mapping[str, int] = field(default_factory=dict)
    why: str = "too slow to wait for"


@dataclass(frozen=True, eq=False)
class Operation:
    """An op, or one of its variants, with everything that a race needs.

    Attributes:
        name: of the op.
        variant: which inputs or options it gets, "" for the only ones.
        call: takes the inputs by name and ``backend``; returns the output, or output and final state. For
            ``stream`` also ``initial_state``.
        inputs: random ones for a shape and dtype, by name; on the CPU.
        work: the arithmetic of a forward of a shape.
        small: an odd shape, on which everybody proves to compute the same.
        shapes: a typical one of the models that use the op, then a longer one.
        further: shapes for ``--full``.
        scaling: a shape without T, for the rows over T; None for an op without time.
        timed: the inputs that have a time axis (their second).
        constant: the inputs that get no gradient.
        gradients: whether the op has any.
        state: the inputs → the shape of the state of a step; None if there is no step.
        step: the decoding step: one token's inputs by name, ``state`` and ``backend``.
        peers, step_peers: see :class:`Peer`.
    """

    name: str
    call: Callable[..., Tensor | tuple[Tensor, Tensor]]
    inputs: Callable[[Shape, torch.dtype], Inputs]
    work: Callable[[Shape], Work]
    small: Shape
    shapes: tuple[Shape, Shape]
    variant: str = ""
    further: tuple[Shape, ...] = ()
    scaling: Shape | None = None
    timed: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    gradients: bool = True
    state: Callable[..., tuple[int, ...]] | None = None
    step: Callable[..., Tensor] | None = None
    peers: tuple[Peer, ...] = ()
    step_peers: tuple[Peer, ...] = ()

    @property
    def title(self) -> str:
        """``rotation_scan, by token``."""
        return f"{self.name}, {self.variant}" if self.variant else self.name

    def output(self, **arguments: object) -> Tensor:
        """What ``call`` returns, without a final state."""
        result = self.call(**arguments)
        return result if isinstance(result, Tensor) else result[0]

    def token(self, inputs: Inputs, time: int = 0) -> Inputs:
        """The inputs of one time step."""
        return {
            name: tensor[:, time].contiguous() if name in self.timed else tensor
            for name, tensor in inputs.items()
        }

    def piece(self, inputs: Inputs, begin: int, end: int) -> Inputs:
        """The inputs of some time steps."""
        return {
            name: tensor[:, begin:end] if name in self.timed else tensor for name, tensor in inputs.items()
        }


@dataclass(frozen=True, eq=False)
class Race:
    """One comparison: an op's backends and peers on the same inputs.

    Attributes:
        operation, shape, dtype: of what.
        pass_: one of the four above.
        part: of the report: ``typical``, ``long``, ``further`` or ``lengths``.
        quick: timed without ``--full``.
    """

    operation: Operation
    shape: Shape
    dtype: torch.dtype
    pass_: str
    part: str
    quick: bool

    def __str__(self) -> str:
        sizes = "-".join(f"{name}{size}" for name, size in self.shape.items())
        variant = self.operation.variant.replace(" ", "_")
        dtype = str(self.dtype).removeprefix("torch.")
        return "-".join(word for word in (variant, self.part, sizes, dtype, self.pass_) if word)


def races(operation: Operation) -> Iterator[Race]:
    """The typical shape in every pass and dtype, the longer one and bfloat16's, further ones, lengths."""
    passes = (FORWARD, TRAINING) if operation.gradients else (FORWARD,)
    typical, long = operation.shapes
    for dtype, pass_ in product((torch.float32, torch.bfloat16), passes):
        yield Race(operation, typical, dtype, pass_, "typical", quick=True)
    if operation.step is not None:
        token = {name: size for name, size in typical.items() if name != "T"}
        for dtype in (torch.float32, torch.bfloat16):
            yield Race(operation, token, dtype, STEP, "typical", quick=True)
    for dtype, pass_ in product((torch.float32, torch.bfloat16), passes):
        yield Race(operation, long, dtype, pass_, "long", quick=dtype == torch.float32)
    for shape, pass_ in product(operation.further, passes):
        yield Race(operation, shape, torch.float32, pass_, "further", quick=False)
    if operation.scaling is not None:
        for pass_, length in product((FORWARD, TRAINING, STREAM), LENGTHS):
            shape = {**operation.scaling, "T": length}
            yield Race(operation, shape, torch.float32, pass_, "lengths", quick=False)
