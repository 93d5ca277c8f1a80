"""What every kernel costs on every GPU target, from its machine code: ``python -m benchmarks.gpu_report``.

Registers, spills, shared memory and instructions are those of the compiled code; occupancy is computed from
published limits. No time is measured or predicted. ``.cache/`` keeps the results by the sources' hash.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version

from .compile_gate import ROOT, CompiledKernel, compile_cases, kernel_from_json
from .machine_code import MachineCode
from .targets import TARGETS

CACHE = ROOT / ".cache" / "gpu_report"
NOTABLE = (
    *("HMMA", "HGMMA", "QMMA", "FFMA", "FFMA2", "FMUL", "MUFU", "SHFL", "BAR", "LDGSTS", "LDSM"),
    *(f"{access}.{bits}" for access in ("LDG", "STG", "LDS", "STS") for bits in (8, 16, 32, 64, 128)),
    *("DADD", "DMUL", "DFMA", "CALL", "LDL", "STL"),
)
NOTABLE_AMD = (
    "v_mfma",
    "v_fma",
    "v_pk_fma",
    "v_exp",
    "v_rcp",
    "global_load",
    "global_store",
    "ds_",
    "scratch",
)


def report(
    targets: Iterable[str], ops: Iterable[str], *, quick: bool = False
) -> Iterator[tuple[str, str, CompiledKernel]]:
    """``(target, op, kernel)`` for everything that the cases launch; targets compile side by side.

    Args:
        targets: names in :data:`benchmarks.targets.TARGETS`.
        ops: names in :data:`benchmarks.cases.OPS`.
        quick: only the cases that hold each kernel once.
    """
    targets, ops = list(targets), list(ops)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda target: _cached(target, ops, quick), targets)
        for target, kernels in zip(targets, results, strict=True):
            for op in ops:
                for kernel in kernels[op]:
                    yield target, op, kernel


def _cached(target: str, ops: list[str], quick: bool) -> dict[str, list[CompiledKernel]]:
    paths = {op: CACHE / f"{target}-{op}-{'quick' if quick else 'full'}-{sources_hash()}.json" for op in ops}
    # Starting a process takes as long as compiling several kernels: one for all ops.
    missing = [op for op, path in paths.items() if not path.exists()]
    kernels = compile_cases(target, missing, quick=quick) if missing else {}
    for op, rows in kernels.items():
        paths[op].parent.mkdir(parents=True, exist_ok=True)
        # Two runs may write at once: each its own file, renamed when whole.
        partial = paths[op].with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps([asdict(kernel) for kernel in rows]), encoding="utf-8")
        partial.replace(paths[op])
    for op in paths.keys() - kernels.keys():
        kernels[op] = [kernel_from_json(row) for row in json.loads(paths[op].read_text(encoding="utf-8"))]
    return kernels


def sources_hash() -> str:
    """Of what decides the result: the kernels, this folder, Triton's and torch's versions."""
    digest = hashlib.sha256(f"{version('triton')} {version('torch')}".encode())
    for folder in (ROOT / "kernels" / "phasefield_kernels", ROOT / "benchmarks"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def notable_instructions(code: MachineCode) -> str:
    """The instructions that decide a kernel's speed, ``HMMA 64  LDG.128 8``, in a fixed order."""
    counts = {name: code.instructions[name] for name in NOTABLE if name in code.instructions}
    if not counts:
        counts = {n: c for n, c in sorted(code.instructions.items()) if n.startswith(NOTABLE_AMD)}
    return "  ".join(f"{name} {count}" for name, count in counts.items())


def main() -> int:
    """Print the table; the exit status is 1 if a kernel spills, has a stack or does not fit."""
    from .cases import OPS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="only these ops")
    arguments = parser.parse_args()
    layout = "{:7}  {:14}  {:22}  {:62}  {:>9}  {:>7}  {:>6}  {:>9}  {}"
    print(
        layout.format(
            "target", "op", "kernel", "configuration", "registers", "spilled", "shared", "occupancy", ""
        )
    )
    violating = 0
    for target, op, kernel in report(arguments.targets, arguments.op):
        code = kernel.code
        violations = code.violations(TARGETS[target])
        violating += bool(violations)
        numbers = (code.registers, code.spilled, code.shared, f"{code.occupancy:.0%}")
        columns = (target, op, kernel.kernel, kernel.configuration, *numbers, notable_instructions(code))
        print(layout.format(*columns))
        print(f"{'':9}{kernel.cases[0]}" + (f" and {len(kernel.cases) - 1} more" if kernel.cases[1:] else ""))
        for violation in violations:
            print(f"{'':9}NOT ALLOWED: {violation}")
    print(f"{violating} kernels do what they must not")
    return int(violating > 0)


if __name__ == "__main__":
    raise SystemExit(main())
