"""A case: one way through an op, which the compile gate compiles and the traffic gate runs and counts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """What the traffic gate allows.

    Attributes:
        unique: bytes touched in each launch, over the bytes of inputs read and outputs written.
        sectors: 32-byte sectors of all accesses, over the bytes asked for: 1 where neighbours are
            accessed together.
    """

    unique: float
    sectors: float


DTYPES = (torch.float32, torch.bfloat16)

ONE_PASS = Bound(unique=1.05, sectors=1.02)
"""Every byte once; the rest is partial sums for parameters. Packed, each program reads two offsets alone."""

LOOSE = Bound(unique=1.5, sectors=2.5)
"""Misaligned rows, and few steps to each state: here only races and accesses out of bounds matter."""


def short(dtype: torch.dtype) -> str:
    """``float32``."""
    return str(dtype).removeprefix("torch.")


class Work(NamedTuple):
    """Something to run, once or often: its kernels should read ``reads`` and write what ``run`` returns once.

    Attributes:
        between: bytes that launches hand to later launches, written and read: they count as well.
    """

    run: Callable[[], Sequence[Tensor]]
    reads: Sequence[Tensor]
    between: int = 0


class Case(NamedTuple):
    """One way through an op.

    Attributes:
        name: path, form, dtype and direction.
        prepare: makes the inputs; what it runs itself is not measured.
        bound: what the traffic gate allows; None where it has nothing to add: only compiled.
        quick: in every run of the tests; together these hold each kernel once.
    """

    name: str
    prepare: Callable[[], Work]
    bound: Bound | None
    quick: bool


class Scan(NamedTuple):
    """A recurrent op on certain inputs; its directions are cases.

    Attributes:
        name: path, form and dtype.
        op: the public function.
        make_inputs: the op's tensors by name and in its order, ``initial_state`` and ``cu_seqlens`` last.
        saves_first: for its gradients it saves its first input as well.
        saves_output: False where it does not.
        between: bytes that the launches of its values, and of its gradients, hand to each other.
    """

    name: str
    op: Callable[..., tuple[Tensor, Tensor]]
    make_inputs: Callable[[], Mapping[str, Tensor | None]]
    saves_first: bool = False
    saves_output: bool = True
    between: tuple[int, int] = (0, 0)

    def forward(self, bound: Bound | None = None, *, quick: bool = False, **options: object) -> Case:
        """Values."""

        def prepare() -> Work:
            inputs = self.make_inputs()
            run = lambda: self.op(**inputs, backend="triton", **options)  # noqa: E731
            return Work(run, _given(inputs.values()), self.between[0])

        return Case(f"{self.name}, forward", prepare, bound, quick)

    def backward(self, bound: Bound | None = None, *, quick: bool = False) -> Case:
        """Gradients to all inputs."""

        def prepare() -> Work:
            inputs = self.make_inputs()
            given = _given(inputs.values())
            wanted = [tensor.requires_grad_() for tensor in given if tensor.is_floating_point()]
            h, final = self.op(**inputs, backend="triton")
            cotangents = [torch.randn_like(h), torch.randn_like(final)]
            saved = [*([h] if self.saves_output else []), *given[0 if self.saves_first else 1 :]]
            run = lambda: torch.autograd.grad((h, final), wanted, cotangents, retain_graph=True)  # noqa: E731
            return Work(run, [*cotangents, *saved], self.between[1])

        return Case(f"{self.name}, backward", prepare, bound, quick)

    def backward_to_first(self, bound: Bound | None = None) -> Case:
        """The gradient to the first input alone; that of a linear op needs no saved output."""

        def prepare() -> Work:
            inputs = self.make_inputs()
            first, *others = _given(inputs.values())
            h, final = self.op(first.requires_grad_(), **dict(list(inputs.items())[1:]), backend="triton")
            cotangents = [torch.randn_like(h), torch.randn_like(final)]
            run = lambda: torch.autograd.grad((h, final), first, cotangents, retain_graph=True)  # noqa: E731
            return Work(run, [*cotangents, *others])

        return Case(f"{self.name}, backward to the input alone", prepare, bound, quick=False)

    def step(self, step: Callable[..., Tensor], bound: Bound | None = None) -> Case:
        """One decoding step on inputs of one time step; it overwrites the state."""

        def prepare() -> Work:
            *inputs, state, _ = self.make_inputs().values()
            token = [tensor[:, 0] if tensor is not None and tensor.ndim > 2 else tensor for tensor in inputs]
            return Work(lambda: [step(*token, state, backend="triton"), state], [*_given(token), state])

        return Case(f"{self.name}, step", prepare, bound, quick=False)


class Product(NamedTuple):
    """A matrix product on certain inputs; its directions are cases.

    Attributes:
        name: path, form and dtype.
        op: the public function.
        make_inputs: its tensors by name.
        between: bytes that the launches of its values, and of its gradients, hand to each other.
    """

    name: str
    op: Callable[..., Tensor]
    make_inputs: Callable[[], Mapping[str, Tensor | None]]
    between: tuple[int, int] = (0, 0)

    def forward(self, bound: Bound | None = None, *, quick: bool = False) -> Case:
        """Values, without a gradient to come."""

        def prepare() -> Work:
            inputs = self.make_inputs()
            run = lambda: [self.op(**inputs, backend="triton")]  # noqa: E731
            return Work(run, _given(inputs.values()), self.between[0])

        return Case(f"{self.name}, forward", prepare, bound, quick)

    def backward(self, bound: Bound | None = None, *, quick: bool = False) -> Case:
        """Gradients to all inputs; these of a bias and a residual do not read them."""

        def prepare() -> Work:
            inputs = self.make_inputs()
            wanted = [tensor.requires_grad_() for tensor in _given(inputs.values())]
            y = self.op(**inputs, backend="triton")
            cotangent = torch.randn_like(y)
            read = [inputs[name] for name in inputs if name not in ("bias", "residual")]
            run = lambda: torch.autograd.grad(y, wanted, cotangent, retain_graph=True)  # noqa: E731
            return Work(run, [cotangent, *_given(read)], self.between[1])

        return Case(f"{self.name}, backward", prepare, bound, quick)


def _given(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
