"""What a compiled kernel costs, read from its machine code with the tools that Triton's wheel brings."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .targets import Target

_MEMORY = ("LDG", "STG", "LDS", "STS", "LDGSTS", "LDL", "STL")
_SASS = re.compile(r"^\s+(?:/\*[0-9a-f]+\*/)?\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)\b.*;", re.MULTILINE)
_AMDGCN = re.compile(r"^\t([a-z][a-z0-9_]+)\b", re.MULTILINE)


@dataclass(frozen=True)
class MachineCode:
    """The cost of one kernel on one target.

    Attributes:
        registers: a thread (vector registers on AMD).
        spilled: bytes a thread moves to and from local memory, each instruction of the text counted once
            (on AMD: the number of spilled registers).
        stack: bytes of local memory a thread.
        shared: bytes of shared memory a block.
        warps: a block.
        occupancy: estimated share of the multiprocessor's warp slots that are filled.
        limited_by: the resource that bounds the occupancy.
        instructions: how often each opcode stands in the text (a loop's body counts once). On NVIDIA by
            mnemonic, and memory accesses also with their width in bits: ``LDG.128``.
    """

    registers: int
    spilled: int
    stack: int
    shared: int
    warps: int
    occupancy: float
    limited_by: str
    instructions: dict[str, int]

    def violations(self, target: Target) -> list[str]:
        """What a kernel must not do: spill, use a stack, or want more shared memory than a block gets."""
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled}")
        if self.stack:
            found.append(f"has a stack of {self.stack} bytes")
        if self.shared > target.shared_per_block:
            found.append(f"wants {self.shared} bytes of shared memory, of {target.shared_per_block}")
        return found


def read(binaries: Mapping[str, Any], shared: int, warps: int, target: Target) -> MachineCode:
    """The cost of a kernel.

    Args:
        binaries: a compiled kernel's ``asm``: holds ``cubin`` for NVIDIA, ``amdgcn`` for AMD.
        shared: bytes of shared memory a block, from the kernel's metadata.
        warps: a block.
        target: what it was compiled for.
    """
    reader = _read_cubin if "cubin" in binaries else _read_amdgcn
    registers, spilled, stack, instructions = reader(binaries)
    occupancy, limit = target.occupancy(registers, shared, warps)
    return MachineCode(registers, spilled, stack, shared, warps, occupancy, limit, dict(instructions))


def _read_cubin(binaries: Mapping[str, Any]) -> tuple[int, int, int, Counter[str]]:
    import triton.backends.nvidia as nvidia

    tools = Path(nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binaries["cubin"])
        # The real binary, not ptxas -v: run again, ptxas answers for other options than Triton's.
        text = _output(tools / "nvdisasm", "-c", path)
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", path)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    instructions = sass_instructions(text)
    spilled = sum(
        count * int(name.split(".")[1]) // 8
        for name, count in instructions.items()
        if name.startswith(("LDL.", "STL."))
    )
    return registers, spilled, stack, instructions


def _output(tool: Path, *arguments: object) -> str:
    command = [str(tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def sass_instructions(text: str) -> Counter[str]:
    """Count the opcodes of a disassembly; memory accesses a second time by width."""
    counts = Counter[str]()
    for opcode, *modifiers in (match[1].split(".") for match in _SASS.finditer(text)):
        counts[opcode] += 1
        if opcode in _MEMORY:
            widths = [m.lstrip("US") for m in modifiers if m.lstrip("US") in ("8", "16", "64", "128")]
            counts[f"{opcode}.{widths[0] if widths else 32}"] += 1
    return counts


def _read_amdgcn(binaries: Mapping[str, Any]) -> tuple[int, int, int, Counter[str]]:
    text = binaries["amdgcn"]
    registers, spilled, stack = (
        int(re.search(rf"\.{note}:\s+(\d+)", text)[1])
        for note in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    )
    return registers, spilled, stack, Counter(match[1] for match in _AMDGCN.finditer(text))
