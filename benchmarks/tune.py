"""Look for better numbers in a configuration table: ``python -m benchmarks.tune aperiodic_scan``.

On a machine with a GPU every number of the table's row for it is doubled and halved in turn, the cases that
launch otherwise are timed before and after, and what is faster stays. The row is then written into the
table's file under the GPU's architecture; run ``benchmarks.gpu_report`` on it before it is kept.

On a machine without one nothing is measured and nothing written: the same changes are ranked by what they
compile to for a ``--target``. That is a prediction, by a rule of thumb (:class:`Prediction`).
"""

import argparse
import importlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from phasefield_kernels.device import architecture, for_architecture

from . import hebbian_cases, memory_cases, norm_cases, product_cases, scan_cases, selective_cases
from .case import Case
from .compile_gate import CompiledKernel, compile_instead_of_launching, kernels_of
from .machine_code import MachineCode
from .tables import Change, Table, changes, rewrite, tables
from .targets import TARGETS, Target

OPS_OF = {
    "aperiodic_scan": ("aperiodic_scan",),
    "rotation_scan": ("rotation_scan", "oscillatory_scan", "linoss_scan"),
    "selective_scan": ("selective_scan",),
    "hebbian_scan": ("hebbian_scan", "phase_hebbian_scan"),
    "complex_product": ("phase_linear", "phase_matmul"),
    "phase_norm": ("phase_norm",),
    "hebbian_update": ("hebbian_update_",),
    "gravity_field": ("gravity_field",),
}
"""A folder with tables in its configs.py → the ops whose kernels they lay out."""

TYPICAL: dict[ModuleType, dict[str, Any]] = {
    scan_cases: dict(
        TIME_LOOP=dict(batch=32, length=1024, width=512),  # the rotation's from 16,384 lanes on
        SIDE_BY_SIDE=dict(batch=8, length=1024, width=512),
        MANY_LANES=dict(batch=64, length=256, width=1024),
        CHUNKED=dict(batch=1, length=32_768, width=512),
        MANY_CHUNKS=dict(batch=1, length=32_768, width=512),
    ),
    selective_cases: dict(
        TIME_LOOP=dict(batch=4, length=1024, width=1024),
        MANY_LANES=dict(batch=64, length=256, width=1024),
        CHUNKED=dict(batch=1, length=16_384, width=1024),
    ),
    memory_cases: dict(SMALL=(4, 2048, 12, 64, 64), WIDE=(2, 2048, 4, 256, 256)),
    product_cases: dict(SMALL_PRODUCT=(512, 512, 512), LARGE_PRODUCT=(8192, 1024, 1024)),
    norm_cases: dict(SMALL_NORM=(8192, 256), LARGE_NORM=(65_536, 768)),
    hebbian_cases: dict(CUT_UPDATE=(8192, 256, 256), LARGE_UPDATE=(8192, 2048, 2048)),
}
"""Sizes that are timed: the cases' own are for the interpreter."""

WORTH_IT = 0.97
"""Of the time: less is within what repeated measurements differ by."""


def launches(case: Case) -> list[tuple]:
    """What a case would launch: kernels, grids, numbers. Nothing runs, so that its results are garbage."""
    found = []

    def note(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        fixed = (*enumerate(arguments), *options.items())
        found.append((kernel.fn.__name__, grid, *(item for item in fixed if not isinstance(item[1], Tensor))))

    with patch.object(triton.JITFunction, "run", note):
        work = case.prepare()
        found.clear()
        work.run()
    return found


def cases_changed(cases: Iterable[Case], table: Table, number: int, row: Any, change: Change) -> list[Case]:
    """Those that launch otherwise after a change of an architecture's row."""
    affected = []
    for case in cases:
        with table.trying(number, row):
            before = launches(case)
        with table.trying(number, change.row):
            if launches(case) != before:
                affected.append(case)
    return affected


def search(row: Any, ratio: Callable[[Any, Change], float]) -> Any:
    """The row after changing each of its numbers where ``ratio(row, change)``, of times, is worth it."""
    for name in dict.fromkeys(change.name for change in changes(row)):
        ratios = {change: ratio(row, change) for change in changes(row) if change.name == name}
        best = min(ratios, key=ratios.__getitem__)
        if ratios[best] < WORTH_IT:
            row = best.row
    return row


class Prediction(NamedTuple):
    """What cases compile to, judged by a rule of thumb.

    Attributes:
        violations: what a kernel must not do: spill, or take more than a block gets.
        occupancy: the lowest of the kernels.
        cost: instructions (each of the text once) over what a program's compile-time sizes multiply to,
            times threads; more where under a quarter of the warp slots are filled, which hides no latency.
            The geometric mean over kernels, so that only ratios mean anything.
    """

    violations: tuple[str, ...]
    occupancy: float
    cost: float


def predict(kernels: Iterable[CompiledKernel], target: Target) -> Prediction:
    """The prediction for what was compiled."""
    kernels = list(kernels)
    violations = [f"{k.kernel} {broken}" for k in kernels for broken in k.code.violations(target)]
    logarithms = []
    for kernel in kernels:
        code = kernel.code
        total = sum(count for name, count in code.instructions.items() if "." not in name)
        sizes = re.findall(r"\b(?!warps)\w+=(\d+)", kernel.configuration)
        work = math.prod(int(size) or 1 for size in sizes)
        threads = code.warps * target.triton.warp_size
        logarithms.append(math.log(total * threads / work / min(1.0, 4 * code.occupancy)))
    cost = math.exp(sum(logarithms) / len(logarithms))
    return Prediction(tuple(violations), min(kernel.code.occupancy for kernel in kernels), cost)


class Ranked(NamedTuple):
    """A change beside the shipped numbers, on the cases that it changes; None if it does not compile."""

    change: Change
    shipped: Prediction
    predicted: Prediction | None

    @property
    def ratio(self) -> float:
        """Of the costs; infinite if it does not compile."""
        return math.inf if self.predicted is None else self.predicted.cost / self.shipped.cost


def ranked(candidates: Iterable[Ranked]) -> list[Ranked]:
    """The best first; those that violate a limit after all others, and last what does not compile."""
    return sorted(candidates, key=lambda c: (c.predicted is None or bool(c.predicted.violations), c.ratio))


def _cases(folder: str) -> list[Case]:
    from .cases import OPS

    return [case for op in OPS_OF[folder] for case in OPS[op]()]


def _measure(table: Table, cases: Sequence[Case]) -> None:
    number = architecture()
    if not isinstance(number, int):
        raise SystemExit(f"the tables have rows for NVIDIA's architectures; this is {number}.")
    shipped = for_architecture(table.rows, number)

    def times(row: Any, some: Sequence[Case]) -> list[float]:
        with table.trying(number, row):
            return [triton.testing.do_bench(case.prepare().run, return_mode="median") for case in some]

    def ratio(row: Any, change: Change) -> float:
        affected = cases_changed(cases, table, number, row, change)
        if not affected:
            print(f"          {change}: no case launches it", flush=True)
            return 1.0
        try:
            after = times(change.row, affected)
        except TritonError as error:
            print(f"          {change}: {str(error).splitlines()[0]}", flush=True)
            return math.inf
        logarithms = [math.log(new / old) for new, old in zip(after, times(row, affected), strict=True)]
        result = math.exp(sum(logarithms) / len(logarithms))
        print(f"  {result:6.3f}  {change}, {len(affected)} cases", flush=True)
        return result

    row = search(shipped, ratio)
    if row == shipped:
        print("nothing faster: the table stays")
        return
    rewrite(table, number, row, torch.cuda.get_device_name())
    print(f"{table.source} has it under {number}")


def _predict(table: Table, cases: Sequence[Case], target: Target, compiled: list[Any]) -> None:
    number = target.triton.arch if isinstance(target.triton.arch, int) else min(table.rows)
    shipped = for_architecture(table.rows, number)
    codes: dict[str, MachineCode] = {}

    def compiled_to(row: Any, some: Sequence[Case]) -> Prediction:
        with table.trying(number, row):
            return predict(kernels_of(some, compiled, codes, target), target)

    found = []
    for change in changes(shipped):
        affected = cases_changed(cases, table, number, shipped, change)
        affected = [case for case in affected if case.quick] or affected  # these hold each kernel once
        if not affected:
            print(f"          {change}: no case launches it", flush=True)
            continue
        try:
            predicted = compiled_to(change.row, affected)
        except (TritonError, RuntimeError) as error:  # RuntimeError: a pass of the compiler failed
            print(f"          {change}: {str(error).splitlines()[0]}", flush=True)
            predicted = None
        found.append(Ranked(change, compiled_to(shipped, affected), predicted))
    for candidate in ranked(found):
        told = "does not compile"
        if result := candidate.predicted:
            told = f"occupancy {result.occupancy:.0%}"
            told += f", NOT ALLOWED: {result.violations[0]}" if result.violations else ""
        print(f"  {candidate.ratio:6.3f}  {candidate.change}: {told}", flush=True)


def main() -> None:
    """Time and rewrite, or predict and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", choices=OPS_OF, help="whose tables")
    parser.add_argument("--target", choices=TARGETS, default="sm_86", help="without a GPU: predict for it")
    arguments = parser.parse_args()
    module = importlib.import_module(f"phasefield_kernels.{arguments.folder}.configs")
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
        with _sizes():
            cases = _cases(arguments.folder)
        run = lambda table: _measure(table, cases)  # noqa: E731
    else:
        print(f"A PREDICTION from machine code for {arguments.target}: nothing here was timed.")
        target, cases = TARGETS[arguments.target], _cases(arguments.folder)
        compiled = compile_instead_of_launching(target)
        run = lambda table: _predict(table, cases, target, compiled)  # noqa: E731
    for table in tables(module):
        print(f"{table.name}{'' if table.key is None else f'[{table.key}]'}:")
        run(table)


@contextmanager
def _sizes() -> Iterator[None]:
    patches = [patch.multiple(module, **sizes) for module, sizes in TYPICAL.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


if __name__ == "__main__":
    main()
