"""One front end for several NVIDIA targets: what Triton would do again for each of them is done once.

Making the GPU IR takes more than half of a compilation, and targets differ in it only where a product of
matrices is laid out. So one target's serves another

- in every kernel without such a product: but for the target's name it is the same;
- in every kernel within a family (``capability // 10``), which is all that Triton's passes ask for.

The PTX of sm_86 and sm_89 is the same as well; for sm_80 and sm_90 LLVM's SLP vectorizer may be off, and
sm_120 has instructions of its own. ``ptxas`` runs for every target, since registers are its business.

Where nothing is shared (AMD; products on another family) a kernel's variants in one configuration and with
the same types, which differ in absent pointers and alignment, are compiled only if none takes more registers
on the target compiled first: every kernel, configuration and type is still seen everywhere.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend

# Options that name the target, or that only its products and 8-bit numbers read.
_OF_THE_TARGET = (
    *("arch", "ptx_version", "max_num_imprecise_acc_default"),
    *("supported_fp8_dtypes", "deprecated_fp8_dot_operand_dtypes"),
)
_SAME_PTX = {86, 89}


class FrontEnd:
    """A ``triton.compile`` that remembers kernels, and begins with another target's IR where it may.

    Called as Triton calls its own; None for a kernel that is left out.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], list[Any]] = {}
        self._left_out: set[str] = set()

    def __call__(self, src: ASTSource, target: GPUTarget, options: dict[str, Any]) -> Any:
        left_out = _variant(src) in self._left_out
        if target.backend != "cuda":
            return None if left_out else compile(src, target=target, options=options)
        shared = {name: value for name, value in options.items() if name not in _OF_THE_TARGET}
        siblings = self._known.setdefault((src.hash(), str(sorted(shared.items()))), [])
        fitting = [sibling for sibling in siblings if _same_gpu_ir(sibling, target.arch)]
        same_ptx = [s for s in fitting if {s.metadata.target.arch, target.arch} == _SAME_PTX]
        if same_ptx:
            kernel = _from_ptx(same_ptx[0], target, options)
        elif fitting:
            kernel = self._from_gpu_ir(fitting[0], src, target, options)
        elif left_out:
            return None
        else:
            kernel = compile(src, target=target, options=options)
        kernel.asm.pop("llir", None)  # the longest text, and nobody reads it again
        siblings.append(kernel)
        return kernel

    def leave_out_all_but(self, registers: Mapping[str, int]) -> None:
        """What is not shared is compiled only for each configuration's and types' hungriest variant.

        Args:
            registers: of what has been compiled so far, by the compiled kernel's hash.
        """
        groups: dict[tuple, list[tuple[int, str]]] = {}
        for kernel, *_ in self._known.values():
            if kernel.hash in registers:
                variant = registers[kernel.hash], _variant(kernel.src)
                groups.setdefault(_form(kernel.src), []).append(variant)
        for variants in groups.values():
            self._left_out |= {variant for _, variant in variants} - {max(variants)[1]}

    def _from_gpu_ir(self, sibling: Any, src: ASTSource, target: GPUTarget, options: dict[str, Any]) -> Any:
        named = f'"cuda:{sibling.metadata.target.arch}"', f'"cuda:{target.arch}"'
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.ttgir"
            path.write_text(sibling.asm["ttgir"].replace(*named), encoding="utf-8")
            kernel = compile(str(path), target=target, options=options)
        kernel.src = src
        kernel.hash = f"{sibling.hash} for {target.arch}"
        kernel.asm["ttir"] = sibling.asm["ttir"]
        return kernel


def _variant(src: ASTSource) -> str:
    # What src.hash() tells apart but for attributes of AMD's own.
    aligned = sorted(str(path) for path, found in src.attrs.items() if ["tt.divisibility", 16] in found)
    return f"{src.fn.__name__} {src.signature} {sorted(map(str, src.constants.items()))} {aligned}"


def _form(src: ASTSource) -> tuple:
    names = src.fn.arg_names
    fixed = [(names[path[0]], value) for path, value in src.constants.items() if names[path[0]].isupper()]
    types = set(re.findall(r"\*\w+", str(list(src.signature.values()))))  # of pointers, in tuples as well
    return src.fn.__name__, str(sorted(fixed)), str(sorted(types))


def _same_gpu_ir(sibling: Any, capability: int) -> bool:
    return sibling.metadata.target.arch // 10 == capability // 10 or "tt.dot" not in sibling.asm["ttir"]


def _from_ptx(sibling: Any, target: GPUTarget, options: dict[str, Any]) -> Any:
    backend = make_backend(target)
    ptx = sibling.asm["ptx"].replace(
        f".target sm_{sibling.metadata.target.arch}", f".target sm_{target.arch}"
    )
    cubin = backend.make_cubin(ptx, {}, backend.parse_options(dict(options)), target.arch)
    return SimpleNamespace(
        src=sibling.src,
        hash=f"{sibling.hash} for {target.arch}",
        metadata=sibling.metadata._replace(target=target),
        asm={**sibling.asm, "ptx": ptx, "cubin": cubin},
    )
