"""What a compiled kernel costs, read from its machine code."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sass import Loop, Sass, code_size, disassemble, run_tool
from .targets import Target

_AMDGCN = re.compile(r"^\t([a-z][a-z0-9_]+)\b", re.MULTILINE)
_TENSOR = ("HMMA", "HGMMA", "QMMA", "IMMA", "UTCHMMA", "v_mfma")
_SPECIAL = ("MUFU", "v_exp_f", "v_log_f", "v_rcp_f", "v_rsq_f", "v_sqrt_f", "v_sin_f", "v_cos_f")
_SHUFFLES = ("SHFL", "ds_bpermute", "ds_permute", "ds_swizzle")
_LOADS = ("LDG", "LDGSTS", "global_load", "buffer_load")
_STORES = ("STG", "global_store", "buffer_store")
_AMD_BITS = {"ubyte": 8, "sbyte": 8, "ushort": 16, "short": 16, "byte": 8, "dword": 32}


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
        size: bytes of instructions.
        instructions: how often each opcode stands in the text (a loop's body counts once). On NVIDIA by
            mnemonic, and memory accesses also with their width in bits: ``LDG.128``.
        loops: what of it is repeated; on NVIDIA.
    """

    registers: int
    spilled: int
    stack: int
    shared: int
    warps: int
    occupancy: float
    limited_by: str
    size: int
    instructions: dict[str, int]
    loops: tuple[Loop, ...] = ()

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


def issued(instructions: Mapping[str, int]) -> int:
    """Instructions: entries by width say the same a second time."""
    return sum(count for name, count in instructions.items() if "." not in name)


def tensor_core(instructions: Mapping[str, int]) -> int:
    """Instructions of tensor cores (AMD: matrix cores)."""
    return _sum(instructions, _TENSOR)


def special_function(instructions: Mapping[str, int]) -> int:
    """Exponentials, reciprocals, sines, …: on NVIDIA they run at a quarter of the rate or less."""
    return _sum(instructions, _SPECIAL)


def shuffles(instructions: Mapping[str, int]) -> int:
    """Exchanges between the threads of a warp."""
    return _sum(instructions, _SHUFFLES)


def load_widths(instructions: Mapping[str, int]) -> dict[int, int]:
    """Loads from global memory by the bits that a thread gets at a time."""
    return _widths(instructions, _LOADS)


def store_widths(instructions: Mapping[str, int]) -> dict[int, int]:
    """Stores to global memory by the bits that a thread gives at a time."""
    return _widths(instructions, _STORES)


def _sum(instructions: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(n for name, n in instructions.items() if name.startswith(names) and "." not in name)


def _widths(instructions: Mapping[str, int], names: tuple[str, ...]) -> dict[int, int]:
    widths = Counter[int]()
    for name, count in instructions.items():
        opcode, _, bits = name.partition(".")
        if bits and opcode in names:
            widths[int(bits)] += count
        elif not bits and (prefix := next((p for p in names if "_" in p and name.startswith(p)), None)):
            widths[_amd_bits(name.removeprefix(prefix).strip("_"))] += count
    return dict(sorted(widths.items()))


def _amd_bits(suffix: str) -> int:
    # dwordx4, dword, short_d16, ubyte, …
    kind, _, number = suffix.partition("x")
    return _AMD_BITS[kind.split("_")[0]] * int(number or 1)


def read_all(kernels: Sequence[Any], target: Target) -> list[MachineCode]:
    """The costs of kernels that were compiled for a target, on NVIDIA disassembled together.

    Args:
        kernels: as Triton compiles them: with ``asm`` and ``metadata``.
        target: what they were compiled for.
    """
    if target.triton.backend == "cuda":
        cubins = [kernel.asm["cubin"] for kernel in kernels]
        texts = disassemble(cubins, target.triton.arch)
        figures: Iterable = map(_figures_of_cubin, cubins, texts)
    else:
        figures = (_figures_of_amdgcn(kernel.asm["amdgcn"]) for kernel in kernels)
    codes = []
    for kernel, (registers, spilled, stack, size, instructions, loops) in zip(kernels, figures, strict=True):
        shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
        occupancy, limit = target.occupancy(registers, shared, warps)
        codes.append(
            MachineCode(registers, spilled, stack, shared, warps, occupancy, limit, size, instructions, loops)
        )
    return codes


def _figures_of_cubin(cubin: bytes, text: Sass) -> tuple:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        # The real binary, not ptxas -v: run again, ptxas answers for other options than Triton's.
        usage = run_tool("cuobjdump", "--dump-resource-usage", path)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    spilled = sum(
        count * int(name.split(".")[1]) // 8
        for name, count in text.instructions.items()
        if name.startswith(("LDL.", "STL."))
    )
    return registers, spilled, stack, code_size(cubin), text.instructions, text.loops


def _figures_of_amdgcn(text: str) -> tuple:
    registers, spilled, stack, size = (
        int(re.search(rf"{note}[:=]?\s+=?\s*(\d+)", text)[1])
        for note in (r"\.vgpr_count", r"\.vgpr_spill_count", r"\.private_segment_fixed_size", "codeLenInByte")
    )
    return registers, spilled, stack, size, dict(Counter(m[1] for m in _AMDGCN.finditer(text))), ()
