"""Memory traffic of every op and path against the least possible: ``python -m benchmarks.traffic``.

Counted in Triton's interpreter, in one process of a few minutes; no GPU is asked. Races between the programs
of a launch and accesses outside its tensors are found on the way.

The run fails at a fault, and if a case moves more bytes, or wastes more of its sectors, or launches more
kernels, or has PyTorch move more between them, than in ``benchmarks/data/traffic.json``. Figures that are
meant to change are accepted by ``--accept``, which rewrites that file; it is committed with the change that
made them.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from . import baseline
from .case import Case

BASELINE = baseline.DATA / "traffic.json"
ALL = "all"
"""The tensor of a row that sums up a case."""


class Measurement(NamedTuple):
    """The traffic of one case, over the bytes of its inputs read and outputs written.

    Attributes:
        unique: bytes touched in each launch, each counted once.
        requested: bytes asked for, repetitions included: over ``unique`` where caches have to help.
        sectors: bytes of 32-byte sectors over bytes asked for.
        dot_flops: floating-point operations of matrix products.
        launches: kernels.
        torch: bytes that PyTorch's own operations between the launches read and write.
        faults: races, and bounds that are exceeded.
        least: the bytes that these are ratios to.
        tensors: kernel and argument → (requested, unique) bytes, read and written.
    """

    unique: float
    requested: float
    sectors: float
    dot_flops: int
    launches: int
    torch: int
    faults: list[str]
    least: int
    tensors: dict[str, tuple[int, int]]


def measure(case: Case) -> Measurement:
    """Run a case in the interpreter, on the same random numbers every time.

    Raises:
        triton.runtime.errors.InterpreterError: a kernel reads or writes outside its tensors.
    """
    from .traffic_counter import count_traffic

    with torch.random.fork_rng():
        torch.manual_seed(0)  # how often Newton iterates depends on the numbers
        work = case.prepare()
        with count_traffic() as traffic:
            written = work.run()
    least = sum(tensor.numel() * tensor.element_size() for tensor in (*work.reads, *written)) + work.between
    unique, requested = traffic.unique / least, traffic.requested / least
    sectors = traffic.sectors / traffic.requested
    faults = list(traffic.races)
    for name, value, bound in (
        ("traffic", unique, case.bound.unique),
        ("sectors", sectors, case.bound.sectors),
    ):
        if value > bound:
            faults.append(f"{name} {value:.3f}, allowed {bound:.3f}")
    tensors = {
        name: (sum(requested), sum(traffic.unique_by_tensor[name]))
        for name, requested in traffic.by_tensor.items()
    }
    return Measurement(
        *(unique, requested, sectors, traffic.dot_flops, traffic.launches, traffic.torch),
        *(faults, least, tensors),
    )


def rows(op: str, case: Case, result: Measurement) -> Iterator[dict[str, Any]]:
    """The case in a line, then every tensor in a line: bytes, and what the case may be held to.

    ``bound`` is the least bytes that the case can move, inputs once and outputs once and what its launches
    hand to each other, and ``ratio`` is unique over it.
    """
    whole = (result.requested * result.least, result.unique * result.least)
    for tensor, (requested, unique) in {ALL: whole, **result.tensors}.items():
        of_case = tensor == ALL
        yield {
            "op": op,
            "path": case.name,
            "tensor": tensor,
            "requested": round(requested),
            "unique": round(unique),
            "bound": result.least if of_case else None,
            "ratio": round(result.unique, 4) if of_case else None,
            "allowed": case.bound.unique if of_case else None,
            "sectors": round(result.sectors, 4) if of_case else None,
            "launches": result.launches if of_case else None,
            "torch": result.torch if of_case else None,
            "dot_flops": result.dot_flops if of_case else None,
        }


def regressions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a line has more of than before."""
    guarded = ("requested", "unique", "sectors", "launches", "torch")
    return [
        f"{name} {before[name]} -> {after[name]}"
        for name in guarded
        if before[name] is not None and after[name] > before[name]
    ]


def main() -> int:
    """Print the table; the exit status is 1 if anything is at fault or more than it was."""
    from tests.machinery.interpreter import correct_interpreter

    from .cases import OPS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="only these ops")
    parser.add_argument("--tensors", action="store_true", help="print every tensor of every kernel as well")
    baseline.add_arguments(parser)
    arguments = parser.parse_args()
    correct_interpreter()
    layout = "{:18}  {:64}  {:>11}  {:>11}  {:>11}  {:>7}  {:>7}  {:>7}  {:>9}  {:>8}  {}"
    print(
        layout.format(
            *("op", "case", "requested", "unique", "bound", "ratio", "allowed", "sectors", "dot flops"),
            *("launches", ""),
        )
    )
    faulty, lines = 0, []
    for op in arguments.op:
        for case in OPS[op]():
            if case.bound is None:
                continue
            result = measure(case)
            faulty += bool(result.faults)
            told, *tensors = rows(op, case, result)
            lines += [told, *tensors]
            figures = (told[name] for name in ("requested", "unique", "bound"))
            ratios = (f"{number:.3f}" for number in (result.unique, case.bound.unique, result.sectors))
            numbers = (*figures, *ratios, result.dot_flops, result.launches, "; ".join(result.faults))
            print(layout.format(op, case.name, *numbers), flush=True)
            for line in tensors if arguments.tensors else ():
                print(layout.format("", line["tensor"], line["requested"], line["unique"], *[""] * 7))
    return baseline.finish(arguments, BASELINE, lines, ("op", "path", "tensor"), regressions, faulty)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    raise SystemExit(main())
