"""Compile what real launches would compile, for GPUs that are not there.

The public ops run on CPU tensors under a stand-in driver that only names a target. Every
``kernel[grid](...)`` compiles with the specialisation that these arguments have in a real launch
(divisibility by 16, values of 1, absent pointers) and is recorded; nothing is launched. So there is no
signature to write by hand, and none that can go stale.

Triton's interpreter and its compiler cannot share a process: :func:`compile_cases` starts one of its own,
for all targets, so that they share what is the same for them (:mod:`.front_end`).
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .case import Case
from .front_end import FrontEnd
from .machine_code import MachineCode, read_all
from .sass import Loop
from .targets import REFERENCE, TARGETS, Target

ROOT = Path(__file__).parent.parent
_NARROW_OFFSET = re.compile(r"tt\.addptr .*(?:, |x)i(?:8|16|32)\b")


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel as one or more cases launch it.

    Attributes:
        kernel: its name.
        configuration: compile-time constants and warps, ``BLOCK=32 STEPS=8 warps=1``.
        arguments: types of the others, ``u_ptr: *bf16, …``; None is an absent pointer.
        cases: names of the cases that launch it.
        narrow_offsets: places in its intermediate code that add fewer than 64 bits to a pointer.
        code: its cost.
    """

    kernel: str
    configuration: str
    arguments: str
    cases: tuple[str, ...]
    narrow_offsets: int
    code: MachineCode


def compile_cases(
    targets: Sequence[str], ops: Sequence[str], *, quick: bool = False
) -> dict[str, dict[str, list[CompiledKernel]]]:
    """Every kernel that the ops' cases launch, by target and op; compiled in a process of their own.

    Args:
        targets: names in :data:`benchmarks.targets.TARGETS`.
        ops: names in :data:`benchmarks.cases.OPS`.
        quick: only the cases that hold each kernel once.

    Raises:
        RuntimeError: the process failed, with what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.compile_gate", "--targets", *targets, "--op", *ops]
    process = subprocess.run(
        [*command, *(["--quick"] if quick else [])],
        env=compiler_environment(), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError(f"compiling {', '.join(ops)} for {', '.join(targets)} failed:\n{process.stderr}")
    return {
        target: {op: [kernel_from_json(row) for row in rows] for op, rows in kernels.items()}
        for target, kernels in json.loads(process.stdout).items()
    }


def compiler_environment() -> dict[str, str]:
    """The environment of a process that compiles: no interpreter, and the project on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT), str(ROOT / "kernels"), environment.get("PYTHONPATH", "")]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def kernel_from_json(row: dict[str, Any]) -> CompiledKernel:
    """The inverse of ``dataclasses.asdict``."""
    code = row["code"] | {"loops": tuple(Loop(*loop) for loop in row["code"]["loops"])}
    return CompiledKernel(**row | {"cases": tuple(row["cases"]), "code": MachineCode(**code)})


class StandInDriver:
    """A GPU driver that knows its target and nothing else. Every target is a device of its own."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target.triton

    def get_current_device(self) -> int:
        return list(TARGETS.values()).index(self.target)  # kernels cache what they compiled by device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def map_python_to_cpp_type(self, name: str) -> str:
        return name


def compile_instead_of_launching(target: Target) -> list[Any]:
    """From here on, launches in this process compile for the target and are appended to the list.

    There is no way back. Called again it is for another target, and the list is the same.
    """
    import triton

    from phasefield_kernels import backend

    triton.runtime.driver.set_active(StandInDriver(target))
    if backend.compile_only:
        return _compiled
    launch = triton.JITFunction.run

    def compile_only(self: triton.JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if kernel is not None:  # left out
            _compiled.append(kernel)
        return kernel

    triton.JITFunction.run = compile_only
    triton.compiler.compile = _front_end
    backend.compile_only = True
    return _compiled


_compiled: list[Any] = []
_front_end = FrontEnd()


def compile_here(
    targets: Mapping[str, Target], ops: Mapping[str, Iterable[Case]]
) -> dict[str, dict[str, list[CompiledKernel]]]:
    """Run the ops' cases in this process for every target: by target and op each different kernel once.

    Where the reference is among the targets, it decides what the others need not see (:mod:`.front_end`).
    """
    cases = {op: list(some) for op, some in ops.items()}
    found = {}
    for name in sorted(targets, key=lambda name: name != REFERENCE):
        compiled = compile_instead_of_launching(targets[name])
        codes: dict[str, MachineCode] = {}
        found[name] = {op: kernels_of(some, compiled, codes, targets[name]) for op, some in cases.items()}
        if name == REFERENCE:
            _front_end.leave_out_all_but({hash: code.registers for hash, code in codes.items()})
    return {name: found[name] for name in targets}


def kernels_of(
    cases: Iterable[Case], compiled: list[Any], codes: dict[str, MachineCode], target: Target
) -> list[CompiledKernel]:
    """Run cases where launches compile; each different kernel once.

    Args:
        cases: of one op.
        compiled: the list of :func:`compile_instead_of_launching`.
        codes: costs that are known, by the kernel's hash (ops share kernels); new ones are added.
        target: what launches compile for.
    """
    launched: dict[str, tuple[Any, list[str]]] = {}
    for case in cases:
        case.prepare().run()
        for kernel in compiled:
            names = launched.setdefault(kernel.hash, (kernel, []))[1]
            if case.name not in names:
                names.append(case.name)
        compiled.clear()
    new = {name: kernel for name, (kernel, _) in launched.items() if name not in codes}
    codes.update(zip(new, read_all(list(new.values()), target), strict=True))
    return [_describe(kernel, names, codes[name]) for name, (kernel, names) in launched.items()]


def _describe(kernel: Any, cases: list[str], code: MachineCode) -> CompiledKernel:
    names = kernel.src.fn.arg_names
    constants = {names[path[0]]: value for path, value in kernel.src.constants.items()}
    fixed = [name for name in names if kernel.src.signature[name] == "constexpr" and name.isupper()]
    types = {name: kind for name, kind in kernel.src.signature.items() if name not in fixed}
    return CompiledKernel(
        kernel=kernel.src.fn.__name__,
        configuration=" ".join(
            [*(f"{name}={constants[name]}" for name in fixed), f"warps={kernel.metadata.num_warps}"]
        ),
        arguments=", ".join(
            f"{name}: {constants[name] if kind == 'constexpr' else kind}" for name, kind in types.items()
        ),
        cases=tuple(cases),
        narrow_offsets=len(_NARROW_OFFSET.findall(kernel.asm["ttir"])),
        code=code,
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description="Compile ops' cases for GPU targets; JSON to stdout.")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, required=True)
    parser.add_argument("--op", nargs="+", required=True)
    parser.add_argument("--quick", action="store_true", help="only the cases that hold each kernel once")
    arguments = parser.parse_args()
    from .cases import OPS

    cases = {op: [c for c in OPS[op]() if c.quick or not arguments.quick] for op in arguments.op}
    kernels = compile_here({name: TARGETS[name] for name in arguments.targets}, cases)
    json.dump(
        {
            t: {op: [asdict(kernel) for kernel in rows] for op, rows in ops.items()}
            for t, ops in kernels.items()
        },
        sys.stdout,
    )


if __name__ == "__main__":
    _main()
