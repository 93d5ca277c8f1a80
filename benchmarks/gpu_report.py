"""What every kernel costs on every GPU target, from its machine code: ``python -m benchmarks.gpu_report``.

Registers, spills, shared memory and instructions are those of the compiled code; occupancy is computed from
published limits. No time is measured or predicted. ``.cache/`` keeps the results by the sources' hash.

The run fails if a kernel spills or does not fit, and if one takes more registers or shared memory than in
``benchmarks/data/gpu_report.json``. Figures that are meant to change are accepted by ``--accept``, which
rewrites that file; it is committed with the change that made them.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import baseline
from .compile_gate import ROOT, CompiledKernel, compile_cases, kernel_from_json
from .machine_code import (
    issued,
    load_widths,
    shuffles,
    special_function,
    store_widths,
    tensor_core,
)
from .targets import REFERENCE, TARGETS

CACHE = ROOT / ".cache" / "gpu_report"
BASELINE = baseline.DATA / "gpu_report.json"
_SOURCES = (
    ("kernels/phasefield_kernels", "*.py"),
    *(("benchmarks", pattern) for pattern in ("case*.py", "*_cases.py", "compile_gate.py", "front_end.py")),
    *(("benchmarks", f"{name}.py") for name in ("machine_code", "sass", "targets")),
)
_GUARDED = ("registers", "spilled", "shared_memory")
_TILE = re.compile(r"\b(?:BLOCK\w*|STEPS|SPANS|CHUNK\w*)=(\d+)")


def report(
    targets: Iterable[str], ops: Iterable[str], *, quick: bool = False
) -> Iterator[tuple[str, str, CompiledKernel]]:
    """``(target, op, kernel)`` for everything that the cases launch.

    Args:
        targets: names in :data:`benchmarks.targets.TARGETS`.
        ops: names in :data:`benchmarks.cases.OPS`.
        quick: only the cases that hold each kernel once.
    """
    targets, ops = list(targets), list(ops)
    # A process compiles an op for all targets, which share work; a few quick cases take less time than a
    # process to start. The slowest ops stand last, and begin first.
    batches = [ops] if quick else [[op] for op in reversed(ops)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [part for parts in pool.map(lambda b: _cached(targets, b, quick), batches) for part in parts]
    kernels = {(target, op): rows for target, op, rows in found}
    for target in targets:
        for op in ops:
            for kernel in kernels[target, op]:
                yield target, op, kernel


def _cached(targets: list[str], ops: list[str], quick: bool) -> list[tuple[str, str, list[CompiledKernel]]]:
    def path(target: str, op: str) -> Path:
        return CACHE / f"{target}-{op}-{'quick' if quick else 'full'}-{sources_hash()}.json"

    missing = [(target, op) for op in ops for target in targets if not path(target, op).exists()]
    if missing:
        # The reference decides what the others need not see, whichever of them are asked for.
        wanted = dict.fromkeys([REFERENCE, *(target for target, _ in missing)])
        for target, kernels in compile_cases(
            list(wanted), list(dict.fromkeys(op for _, op in missing)), quick=quick
        ).items():
            for op, rows in kernels.items():
                _write(path(target, op), json.dumps([asdict(kernel) for kernel in rows]))
    return [
        (target, op, [kernel_from_json(row) for row in json.loads(path(target, op).read_text("utf-8"))])
        for op in ops
        for target in targets
    ]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two runs may write at once: each its own file, renamed when whole.
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def sources_hash() -> str:
    """Of what decides the result: kernels, cases and the compile gate, Triton's and torch's versions."""
    digest = hashlib.sha256(f"{version('triton')} {version('torch')}".encode())
    for folder, pattern in _SOURCES:
        for path in sorted((ROOT / folder).rglob(pattern)):
            digest.update(path.relative_to(ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def row(target: str, op: str, kernels: list[CompiledKernel]) -> dict[str, Any]:
    """A line of the report: a kernel in one configuration on one target, in all its variants.

    Variants differ in their arguments' types, in pointers that are absent and in alignment; the figures
    are those of the variant with most registers, and ``variants`` has ``[registers, spilled, shared]`` of
    all, ascending.
    """
    worst = max(kernels, key=lambda kernel: (kernel.code.registers, issued(kernel.code.instructions)))
    code = worst.code
    counts = code.instructions
    return {
        "op": op,
        "kernel": worst.kernel,
        "configuration": worst.configuration,
        "target": target,
        "registers": code.registers,
        "spilled": max(kernel.code.spilled for kernel in kernels),
        "shared_memory": max(kernel.code.shared for kernel in kernels),
        "occupancy": round(code.occupancy, 3),
        "limited_by": code.limited_by,
        "instructions": issued(counts),
        "tensor_core": tensor_core(counts),
        "special_function": special_function(counts),
        "shuffles": shuffles(counts),
        "load_bits": load_widths(counts),
        "store_bits": store_widths(counts),
        "code_bytes": code.size,
        "case": worst.cases[0],
        "per_element": per_element(worst),
        "variants": sorted([k.code.registers, k.code.spilled, k.code.shared] for k in kernels),
    }


def per_element(kernel: CompiledKernel) -> dict[str, float] | None:
    """What threads do in the kernel's longest loop for an element of its tile, summed over the threads.

    An element of a time loop is a lane and step, ``BLOCK · STEPS`` of them in an iteration (in each of
    SPANS); of other kernels the tile is what its sizes multiply to. None where there is no loop, or no size
    is stated, and on AMD.
    """
    code, sizes = kernel.code, [int(size) for size in _TILE.findall(kernel.configuration)]
    if not (code.loops and sizes):
        return None
    counts = max((loop.instructions for loop in code.loops), key=issued)
    elements = 1
    for size in sizes:
        elements *= max(1, size)
    share = 32 * code.warps / elements
    figures = {
        "instructions": issued(counts),
        "special_function": special_function(counts),
        "shuffles": shuffles(counts),
    }
    return {name: float(f"{count * share:.3g}") for name, count in figures.items()}


def rows(kernels: Iterable[tuple[str, str, CompiledKernel]]) -> list[dict[str, Any]]:
    """The report's lines, in the order of what was compiled."""
    variants: dict[tuple[str, str, str, str], list[CompiledKernel]] = {}
    for target, op, kernel in kernels:
        variants.setdefault((target, op, kernel.kernel, kernel.configuration), []).append(kernel)
    return [row(target, op, same) for (target, op, _, _), same in variants.items()]


def regressions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a line takes more of than before: at the worst, or in a variant where their number is the same."""
    found = [f"{name} {before[name]} -> {after[name]}" for name in _GUARDED if after[name] > before[name]]
    if not found and len(before["variants"]) == len(after["variants"]):
        pairs = zip(before["variants"], after["variants"], strict=True)
        if changed := [
            f"{old} -> {new}" for old, new in pairs if any(n > o for o, n in zip(old, new, strict=True))
        ]:
            found.append(f"a variant's [registers, spilled, shared] {changed[0]}")
    return found


def table(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The report as text, a line each."""
    layout = "{:7}  {:15}  {:22}  {:62}  {:>4}  {:>7}  {:>6}  {:>9}  "
    layout += "{:>6}  {:>6}  {:>4}  {:>4}  {:12}  {:12}  {:>6}  {}"
    yield layout.format(
        *("target", "op", "kernel", "configuration", "regs", "spilled", "shared", "occupancy"),
        *("instr.", "tensor", "MUFU", "shfl", "load bits", "store bits", "code"),
        "instructions, MUFU an element",
    )
    for line in lines:
        told = line["per_element"]
        yield layout.format(
            *(line[name] for name in ("target", "op", "kernel", "configuration", "registers", "spilled")),
            *(line["shared_memory"], f"{line['occupancy']:.0%}", line["instructions"], line["tensor_core"]),
            *(line["special_function"], line["shuffles"]),
            *(
                " ".join(f"{bits}:{n}" for bits, n in line[name].items())
                for name in ("load_bits", "store_bits")
            ),
            line["code_bytes"],
            f"{told['instructions']}, {told['special_function']}" if told else "",
        )


def main() -> int:
    """Print the table and what is worse; the exit status is 1 if anything is."""
    from .cases import OPS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="only these ops")
    baseline.add_arguments(parser)
    arguments = parser.parse_args()
    kernels = list(report(arguments.targets, arguments.op))
    lines = rows(kernels)
    print("\n".join(table(lines)))
    violations = [
        f"{target} {op}, {kernel.kernel} ({kernel.configuration}; {kernel.cases[0]}): {violation}"
        for target, op, kernel in kernels
        for violation in kernel.code.violations(TARGETS[target])
    ]
    for violation in violations:
        print(f"NOT ALLOWED: {violation}")
    return baseline.finish(
        arguments, BASELINE, lines, ("target", "op", "kernel", "configuration"), regressions, len(violations)
    )


if __name__ == "__main__":
    raise SystemExit(main())
