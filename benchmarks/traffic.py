"""Memory traffic of every op and path against the least possible: ``python -m benchmarks.traffic``.

Counted in Triton's interpreter, in one process of a few minutes; no GPU is asked. Races between the programs
of a launch and accesses outside its tensors are found on the way.
"""

import argparse
import os
from typing import NamedTuple

from .case import Case


class Measurement(NamedTuple):
    """The traffic of one case, over the bytes of its inputs read and outputs written.

    Attributes:
        unique: bytes touched in each launch, each counted once.
        requested: bytes asked for, repetitions included: over ``unique`` where caches have to help.
        sectors: bytes of 32-byte sectors over bytes asked for.
        dot_flops: floating-point operations of matrix products.
        launches: kernels.
        faults: races, and bounds that are exceeded.
    """

    unique: float
    requested: float
    sectors: float
    dot_flops: int
    launches: int
    faults: list[str]


def measure(case: Case) -> Measurement:
    """Run a case in the interpreter.

    Raises:
        triton.runtime.errors.InterpreterError: a kernel reads or writes outside its tensors.
    """
    from .traffic_counter import count_traffic

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
    return Measurement(unique, requested, sectors, traffic.dot_flops, traffic.launches, faults)


def main() -> int:
    """Print the table; the exit status is 1 if anything is at fault."""
    from tests.machinery.interpreter import correct_interpreter

    from .cases import OPS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="only these ops")
    correct_interpreter()
    layout = "{:14}  {:64}  {:>7}  {:>7}  {:>9}  {:>7}  {:>9}  {:>8}  {}"
    print(
        layout.format("op", "case", "traffic", "allowed", "requested", "sectors", "dot flops", "launches", "")
    )
    faulty = 0
    for op in parser.parse_args().op:
        for case in OPS[op]():
            if case.bound is None:
                continue
            result = measure(case)
            faulty += bool(result.faults)
            numbers = (result.unique, case.bound.unique, result.requested, result.sectors)
            columns = (*(f"{number:.3f}" for number in numbers), result.dot_flops, result.launches)
            print(layout.format(op, case.name, *columns, "; ".join(result.faults)), flush=True)
    return int(faulty > 0)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    raise SystemExit(main())
