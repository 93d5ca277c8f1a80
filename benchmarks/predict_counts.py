"""What predictions are made of: each launch's machine code, and what two of its programs ask for.

The first and the last: work that a causal mask makes unequal grows evenly between them. A launch of few
programs is counted whole.

Two processes, because Triton's compiler and interpreter cannot share one: both run a case at the size of a
model under a stand-in driver, so that both see the launches of a certain card's architecture.
"""

import argparse
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

SIZES: dict[str, dict[str, Any]] = {
    "scan_cases": dict(
        TIME_LOOP=dict(batch=16, length=1024, width=512),
        SIDE_BY_SIDE=dict(batch=16, length=1024, width=512),
        CHUNKED=dict(batch=1, length=16_384, width=512),
        ONE_STEP=dict(batch=16, length=1, width=512),
    ),
    "selective_cases": dict(
        TIME_LOOP=dict(batch=8, length=1024, width=1024),
        CHUNKED=dict(batch=1, length=8_192, width=1024),
        ONE_STEP=dict(batch=16, length=1, width=1024),
    ),
    "memory_cases": dict(SMALL=(4, 1024, 8, 64, 64), DECODING=(16, 1, 8, 64, 64)),
    "product_cases": dict(SMALL_PRODUCT=(8192, 1024, 1024), DECODING_PRODUCT=(8, 1024, 1024)),
    "hebbian_cases": dict(WHOLE_UPDATE=(8192, 2048, 2048)),
}
"""Sizes of models, in place of the interpreter's: these constants of the cases' modules."""

WANTED = {
    "aperiodic_scan": ("time loop, float32", "time loop, bfloat16", "decoding, float32"),
    "rotation_scan": (
        "side by side, constant angle, constant decay, float32",
        "side by side, token angle, token decay, bfloat16",
    ),
    "oscillatory_scan": ("side by side, token angle, token damping, bfloat16",),
    "linoss_scan": ("rotating",),
    "selective_scan": ("time loop, real, bfloat16", "decoding"),
    "hebbian_scan": ("small, delta", "decoding"),
    "phase_hebbian_scan": ("small, hebb",),
    "phase_linear": ("small, linear, direct", "a handful of rows, linear, direct, bfloat16"),
    "hebbian_update_": ("one pass, hebb, bfloat16",),
    "gravity_field": ("width 64, bfloat16",),
}
"""The cases that are predicted: an op's names begin with one of these."""

FEW_PROGRAMS = 32
"""A launch of no more is counted whole, so that later ones find all that it writes: gravity's decide by that
which pairs are near."""


@contextmanager
def sizes_of_models() -> Iterator[None]:
    """The cases that are made in this block have the sizes of models."""
    patches = [
        patch.multiple(importlib.import_module(f"benchmarks.{name}"), **sizes)
        for name, sizes in SIZES.items()
    ]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def wanted_cases(ops: list[str]) -> Iterator[tuple[str, Any]]:
    """``(op, case)`` of those that are predicted."""
    from .cases import OPS

    for op in ops:
        yield from ((op, case) for case in OPS[op]() if case.name.startswith(WANTED.get(op, ())))


def compiled(target: str, ops: list[str]) -> dict[str, Any]:
    """By ``op, case``: the least bytes, and every launch's kernel, grid and machine code."""
    import triton

    from .compile_gate import compile_instead_of_launching
    from .machine_code import read_all
    from .targets import TARGETS

    kernels = compile_instead_of_launching(TARGETS[target])
    compile_only = triton.JITFunction.run
    grids: list[list[int]] = []

    def note(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        grids.append(_whole(grid))
        return compile_only(self, *arguments, grid=grid, warmup=warmup, **options)

    found = {}
    with sizes_of_models(), patch.object(triton.JITFunction, "run", note):
        for op, case in wanted_cases(ops):
            work = case.prepare()
            kernels.clear()
            grids.clear()
            tensors = [*work.reads, *work.run()]
            found[f"{op}, {case.name}"] = {
                "op": op,
                "path": case.name,
                "least": sum(t.numel() * t.element_size() for t in tensors) + work.between,
                "shape": list(max(work.reads, key=Tensor.numel).shape),
                "launches": [
                    {
                        "kernel": kernel.src.fn.__name__,
                        "constants": str(sorted(kernel.src.constants.items())),
                        "grid": grid,
                        "code": asdict(code),
                    }
                    for kernel, grid, code in zip(
                        kernels, grids, read_all(kernels, TARGETS[target]), strict=True
                    )
                ],
            }
    return found


def interpreted(target: str, names: list[str]) -> dict[str, Any]:
    """By ``op, case``: what an average program of every launch asks for.

    Args:
        names: of the cases that are wanted.
    """
    import triton
    from triton.runtime.interpreter import GridExecutor, interpreter_builder

    from tests.machinery.interpreter import correct_interpreter

    from .compile_gate import StandInDriver
    from .targets import TARGETS
    from .traffic_counter import count_traffic

    triton.runtime.driver.set_active(StandInDriver(TARGETS[target]))
    correct_interpreter()
    call = GridExecutor.__call__
    set_dim, set_idx = interpreter_builder.set_grid_dim, interpreter_builder.set_grid_idx
    launches: list[dict[str, Any]] = []

    def call_sampled(self: Any, *arguments: Any, **options: Any) -> None:
        # As a grid of one program for every sample, which is told that it is another's.
        grid = _whole(self.grid)
        chosen = [(0, 0, 0), tuple(size - 1 for size in grid)]
        if math.prod(grid) <= FEW_PROGRAMS:
            chosen = list(product(*map(range, grid)))
        self.grid = (1, 1, 1)
        for program in chosen:
            with (
                patch.object(interpreter_builder, "set_grid_dim", lambda *_: set_dim(*grid)),
                patch.object(interpreter_builder, "set_grid_idx", lambda *_, at=program: set_idx(*at)),
            ):
                call(self, *arguments, **options)
        launches.append({"kernel": self.fn.__name__, "grid": grid, "sampled": len(chosen)})

    found = {}
    ops = list(dict.fromkeys(name.split(", ")[0] for name in names))
    with sizes_of_models():
        cases = {f"{op}, {case.name}": case for op, case in wanted_cases(ops)}
    for name in names:
        torch.manual_seed(0)  # which pairs gravity takes as near depends on the numbers
        with sizes_of_models(), patch.object(GridExecutor, "__call__", lambda *_, **__: None):
            work = cases[name].prepare()  # what it launches is not counted, and its values not needed
        launches.clear()
        with patch.object(GridExecutor, "__call__", call_sampled), count_traffic() as traffic:
            work.run()
        found[name] = [
            launch | own._asdict() for launch, own in zip(launches, traffic.by_launch, strict=True)
        ]
    return found


def _whole(grid: Any) -> list[int]:
    return [*map(int, grid), *[1] * (3 - len(grid))]


def collect(kind: str, target: str, names: list[str]) -> dict[str, Any]:
    """:func:`compiled` or :func:`interpreted`, in a process of its own.

    Raises:
        RuntimeError: the process failed, with what it wrote.
    """
    from .compile_gate import ROOT, compiler_environment

    environment = compiler_environment() | ({"TRITON_INTERPRET": "1"} if kind == "interpreted" else {})
    command = [sys.executable, "-m", "benchmarks.predict_counts", kind, target, *names]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{kind} for {target} failed:\n{process.stderr}")
    return json.loads(process.stdout)


def _main() -> None:
    parser = argparse.ArgumentParser(description="One half of what predictions are made of; JSON to stdout.")
    parser.add_argument("kind", choices=("compiled", "interpreted"))
    parser.add_argument("target")
    parser.add_argument("names", nargs="+", help="ops to compile, or cases to interpret")
    arguments = parser.parse_args()
    json.dump(globals()[arguments.kind](arguments.target, arguments.names), sys.stdout)


if __name__ == "__main__":
    _main()
