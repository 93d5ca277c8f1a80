"""NVIDIA's machine code as text, with the tools that Triton's wheel brings: instructions and loops."""

import re
import struct
import subprocess
import tempfile
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MEMORY = ("LDG", "STG", "LDS", "STS", "LDGSTS", "LDL", "STL")
_LINE = re.compile(r"^\s+(?:/\*([0-9a-f]+)\*/)?\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)\b(.*);", re.MULTILINE)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


class Loop(NamedTuple):
    """A loop of a kernel.

    Attributes:
        parent: the place, in the list of loops, of the one around it; None at the outermost.
        instructions: how often each opcode stands in it, inner loops' not counted.
    """

    parent: int | None
    instructions: dict[str, int]


class Sass(NamedTuple):
    """A kernel's instructions; ``loops`` outer before inner."""

    instructions: dict[str, int]
    loops: tuple[Loop, ...]


class _Line(NamedTuple):
    address: int
    opcode: str
    rest: str


def disassemble(cubins: Sequence[bytes], capability: int) -> list[Sass]:
    """Every kernel's instructions, by one run of nvdisasm: starting it takes longer than most kernels."""
    if not cubins:
        return []
    texts = [b"".join(_text_sections(cubin)) for cubin in cubins]
    starts = [sum(map(len, texts[:place])) for place in range(len(texts))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.bin"
        path.write_bytes(b"".join(texts))
        name = f"SM{capability}{'a' if capability >= 90 else ''}"
        lines = _lines(run_tool("nvdisasm", "--binary", name, path))
    by_kernel: list[list[_Line]] = [[] for _ in texts]
    for line in lines:
        by_kernel[bisect(starts, line.address) - 1].append(line)
    return [sass(kernel) for kernel in by_kernel]


def code_size(cubin: bytes) -> int:
    """Bytes of a kernel's instructions."""
    return sum(map(len, _text_sections(cubin)))


def run_tool(name: str, *arguments: object) -> str:
    """The output of one of the CUDA tools in Triton's wheel."""
    import triton.backends.nvidia as nvidia

    command = [str(Path(nvidia.__file__).parent / "bin" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _text_sections(cubin: bytes) -> list[bytes]:
    # A cubin is an ELF file of 64 bits; its instructions are in sections .text.<kernel>.
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + place * size) for place in range(count)]
    names = sections[names_at][4]
    return [
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in sections
        if cubin.startswith(b".text.", names + name)
    ]


def _lines(text: str) -> list[_Line]:
    return [_Line(int(match[1] or "0", 16), match[2], match[3]) for match in _LINE.finditer(text)]


def sass_instructions(text: str) -> Counter[str]:
    """Count the opcodes of a disassembly; memory accesses a second time by width."""
    return _count(_lines(text))


def _count(lines: Iterable[_Line]) -> Counter[str]:
    counts = Counter[str]()
    for _, name, _ in lines:
        opcode, *modifiers = name.split(".")
        counts[opcode] += 1
        if opcode in _MEMORY:
            widths = [m.lstrip("US") for m in modifiers if m.lstrip("US") in ("8", "16", "64", "128")]
            counts[f"{opcode}.{widths[0] if widths else 32}"] += 1
    return counts


def sass(lines: Sequence[Any]) -> Sass:
    """The counts of a kernel, and its loops: what lies between a branch backwards and where it goes."""
    spans = set()
    for address, name, rest in lines:
        # A branch to itself only pads the end.
        if name.startswith("BRA") and (found := _TARGET.search(rest)) and int(found[1], 16) < address:
            spans.add((int(found[1], 16), address))
    ends: dict[int, int] = {}
    for begin, end in spans:  # two branches back to one place are one loop
        ends[begin] = max(end, ends.get(begin, 0))
    ordered = sorted(ends.items(), key=lambda span: (span[0], -span[1]))
    inside: list[list[_Line]] = [[] for _ in ordered]
    for line in lines:
        around = [place for place, (begin, end) in enumerate(ordered) if begin <= line[0] <= end]
        if around:
            inside[around[-1]].append(line)
    loops = []
    for place, (begin, end) in enumerate(ordered):
        around = [other for other, (low, high) in enumerate(ordered[:place]) if low <= begin and end <= high]
        loops.append(Loop(around[-1] if around else None, dict(_count(inside[place]))))
    return Sass(dict(_count(lines)), tuple(loops))
