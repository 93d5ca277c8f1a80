"""Count and check, in Triton's interpreter, what kernels ask of memory.

A wrapper around the interpreter's loads, stores, atomics and dots; the kernels compute what they always do.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, interpreter_builder
from triton.tools.tensor_descriptor import TensorDescriptor

from .memory_access import Access, of_pointers, outside, races, sector_bytes, span, unique_bytes


class LaunchTotals(NamedTuple):
    """What one launch asked for.

    Attributes:
        tensors: argument → (bytes read, bytes written, bytes that it spans).
        dots: 2 · M · N · K by what multiplies: ``"half"``, ``"tf32"``, ``"ieee"`` (float32 in full), …
    """

    tensors: dict[str, tuple[int, int, int]]
    dots: dict[str, int]


@dataclass
class Traffic:
    """Totals over all launches in a block of :func:`count_traffic`.

    Two measures bracket what a device's memory would see: ``requested`` (no cache) and ``unique`` (a perfect
    cache during each launch).

    Attributes:
        requested: bytes of all loads and stores; masked elements cost nothing, an atomic is both.
        unique: bytes read and bytes written, each counted once a launch.
        sectors: bytes of the 32-byte sectors that each load or store touches.
        by_tensor: kernel and argument → (bytes read, bytes written) as requested. Tensors that overlap are
            both charged.
        unique_by_tensor: the same of bytes counted once a launch.
        dot_flops: 2 · M · N · K of every dot.
        by_launch: of every launch, its tensors and dots.
        launches: kernels launched.
        torch: bytes of the tensors that PyTorch's own operations between the launches read and write: copies,
            casts, sums. In none of the figures above.
        races: what two programs of one launch did to the same address.
    """

    requested: int = 0
    unique: int = 0
    sectors: int = 0
    by_tensor: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    unique_by_tensor: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    dot_flops: int = 0
    by_launch: list["LaunchTotals"] = field(default_factory=list)
    launches: int = 0
    torch: int = 0
    races: list[str] = field(default_factory=list)


class _Launch:
    """The accesses of one launch, and the tensors that it may touch: those it was given."""

    def __init__(self, traffic: Traffic, kernel: str, tensors: dict[str, Tensor]) -> None:
        self.traffic = traffic
        self.kernel = kernel
        self.spans = {name: span(tensor) for name, tensor in tensors.items()}
        self.accesses: list[Access] = []
        self.by_tensor: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.dots: dict[str, int] = defaultdict(int)

    def note(self, pointers: Any, mask: Any, *, reads: bool, writes: bool) -> None:
        addresses, size = of_pointers(pointers, mask)
        if not addresses.size:
            return
        (x, y, z), (width, height, _) = interpreter_builder.grid_idx, interpreter_builder.grid_dim
        program = (z * height + y) * width + x
        stray = outside(addresses, size, self.spans.values())
        if stray.size:
            raise IndexError(self._describe(stray, program, writes))
        distinct = np.unique(addresses)
        if writes and not reads and distinct.size != addresses.size:
            twice = addresses.size - distinct.size
            self.traffic.races.append(
                f"{self.kernel}: one store of program {program} writes {twice} addresses again"
            )
        times = reads + writes
        self.traffic.requested += times * addresses.size * size
        self.traffic.sectors += times * sector_bytes(distinct, size)
        for name, (low, high) in self.spans.items():
            count = size * int(((addresses >= low) & (addresses < high)).sum())
            if count:
                for line in (self.by_tensor[name], self.traffic.by_tensor[f"{self.kernel} {name}"]):
                    line[0] += reads * count
                    line[1] += writes * count
        self.accesses.append(Access(distinct, size, program, reads, writes))

    def _describe(self, stray: np.ndarray, program: int, writes: bool) -> str:
        address = int(stray[0])
        distance, name, end = min(
            (abs(address - edge), name, end)
            for name, edges in self.spans.items()
            for end, edge in zip(("start", "end"), edges, strict=True)
        )
        access = "store to" if writes else "load of"
        return (
            f"{self.kernel}: {access} {stray.size} elements outside every tensor of the launch, in program "
            f"{program}; the first is {distance} bytes from the {end} of {name}"
        )

    def close(self) -> None:
        self.traffic.launches += 1
        tensors = {
            name: (*requested, self.spans[name][1] - self.spans[name][0])
            for name, requested in self.by_tensor.items()
        }
        self.traffic.by_launch.append(LaunchTotals(tensors, dict(self.dots)))
        kinds = ([a for a in self.accesses if a.reads], [a for a in self.accesses if a.writes])
        self.traffic.unique += sum(map(unique_bytes, kinds))
        for name, edges in self.spans.items():
            for place, accesses in enumerate(kinds):
                if own := [part for access in accesses if (part := access.inside(*edges)).addresses.size]:
                    self.traffic.unique_by_tensor[f"{self.kernel} {name}"][place] += unique_bytes(own)
        self.traffic.races += [f"{self.kernel}: {race}" for race in races(self.accesses)]


class _BetweenLaunches(TorchDispatchMode):
    """Counts what PyTorch's operations read and write while no kernel runs, also inside our own operators."""

    def __init__(self, traffic: Traffic, launches: list[_Launch]) -> None:
        super().__init__()
        self.traffic, self.launches = traffic, launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "phasefield":
            with self:  # what it is made of comes by again
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        places = {tensor.untyped_storage().data_ptr() for tensor in given}
        fresh = [tensor for tensor in made if tensor.untyped_storage().data_ptr() not in places]
        is_view = made and not fresh and not func._schema.is_mutable
        if not (self.launches or is_view or "empty" in func._schema.name):
            self.traffic.torch += sum(t.numel() * t.element_size() for t in (*given, *fresh))
        return result


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count every launch in this block; the numbers are complete after it.

    Raises:
        triton.runtime.errors.InterpreterError: a kernel's access lies outside all tensors that the launch was
            given. An access that strays into another of them is not noticed.
    """
    traffic = Traffic()
    launches: list[_Launch] = []
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    exchange, compare = InterpreterBuilder.create_atomic_rmw, InterpreterBuilder.create_atomic_cas
    dot, call = InterpreterBuilder.create_dot, GridExecutor.__call__

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].note(pointers, mask, reads=True, writes=False)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].note(pointers, mask, reads=False, writes=True)
        return store(self, pointers, value, mask, *rest)

    def create_atomic_rmw(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launches[-1].note(pointers, mask, reads=True, writes=True)
        return exchange(self, operation, pointers, value, mask, *rest)

    def create_atomic_cas(self: Any, pointers: Any, *rest: Any) -> Any:
        launches[-1].note(pointers, None, reads=True, writes=True)
        return compare(self, pointers, *rest)

    def create_dot(self: Any, a: Any, b: Any, c: Any, precision: Any, *rest: Any) -> Any:
        flops = 2 * a.data.size * b.data.shape[-1]
        traffic.dot_flops += flops
        kind = "half" if a.dtype.primitive_bitwidth == 16 else precision.name.lower()
        launches[-1].dots[kind] += flops
        return dot(self, a, b, c, precision, *rest)

    def launch(self: Any, *arguments: Any, **options: Any) -> None:
        named = {**dict(zip(self.arg_names, arguments, strict=False)), **options}
        launches.append(_Launch(traffic, self.fn.__name__, dict(_tensors(named))))
        call(self, *arguments, **options)
        launches.pop().close()

    replaced = (create_masked_load, create_masked_store, create_atomic_rmw, create_atomic_cas, create_dot)
    with (
        patch.multiple(InterpreterBuilder, **{function.__name__: function for function in replaced}),
        patch.object(GridExecutor, "__call__", launch),
        _BetweenLaunches(traffic, launches),
    ):
        yield traffic


def _tensors(arguments: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in arguments.items():
        if isinstance(value, TensorDescriptor):
            value = value.base
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple):
            yield from _tensors({f"{name}[{place}]": item for place, item in enumerate(value)})
