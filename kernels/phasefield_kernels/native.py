"""The native forms: C kernels of an op's folder, compiled at first use by the machine's own compiler.

``<op>/native*.c`` become a shared library in a cache, as Triton's launchers do: nothing happens at import,
and later processes only load it. The cache is ``PHASEFIELD_CACHE_DIR``, else ``phasefield`` in
``XDG_CACHE_HOME``, else ``~/.cache/phasefield``. A library's name there holds a hash of all that it was made
from (sources, flags, compiler, processor) and one of its own bytes: a damaged one is made again. Where there
is no compiler, or where it fails, the torch forms run (a failure is told once), and :func:`problem` says why.

A kernel is ``int f(int64_t first, int64_t last, const Sizes *sizes, const Tensors *tensors)``, two structs of
int64 and of pointers. It works on the units first … last − 1, each of them alone: how they are shared among
threads changes no bit. It returns 1 if it found no memory. No OpenMP, whose runtime would be there twice,
beside torch's: ctypes gives up the interpreter's lock, so Python's own threads do.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
# contract: a product and the sum it goes into are one instruction and one rounding. no-math-errno and
# no-trapping-math: nobody reads errno or traps here, and square roots and selections become vectors.
_FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
_SECONDS = 300  # for a compiler that hangs

_WORTH_TWO_THREADS = 500_000
"""Nanoseconds of work, as ops estimate it, from which a second thread pays: waking it takes 20,000 to 60,000
(measured); one that finds its core free then does 1.8 times as much in the time."""

_KINDS = {torch.float32: 1, torch.float64: 2, torch.int64: 3}
_MOST_VECTORS = 32  # native_rows.h's VECTORS

_lock = threading.Lock()
_libraries: dict[str, ctypes.CDLL] = {}
_problems: dict[str, str] = {}


class _CannotCompileError(Exception):
    """Why an op has no library."""


@torch.compiler.assume_constant_result
def problem(op: str) -> str | None:
    """Why an op's native form cannot run on this machine; None if it can.

    Compiles it if that was not tried before, and warns once if that fails.
    """
    if op in _libraries:
        return None
    if op not in _problems:
        with _lock:
            if op not in _libraries and op not in _problems:
                _try(op)
    return _problems.get(op)


def _try(op: str) -> None:
    try:
        _libraries[op] = _library(op)
    except _CannotCompileError as failure:
        first = not _problems
        _problems[op] = str(failure)
        # No compiler at all is a machine like many others; one that fails is a fault somewhere.
        if first and compiler() is not None:
            warnings.warn(f"phasefield runs its PyTorch forms on the CPU: {failure}", stacklevel=4)


@cache
def compiler() -> tuple[str, ...] | None:
    """The C compiler's command: ``$CC``, or the first of cc, gcc and clang there is; None without one."""
    if sys.platform == "win32":
        return None  # no compiler there is known to take these flags and make what ctypes loads
    if named := shlex.split(os.environ.get("CC", "")):
        return tuple(named)
    return next(((path,) for path in map(shutil.which, _COMPILERS) if path), None)


def _library(op: str) -> ctypes.CDLL:
    command = compiler()
    if command is None:
        raise _CannotCompileError(f"no C compiler was found ($CC, {', '.join(_COMPILERS)})")
    sources = sorted((_FOLDER / op).glob("native*.c"))
    flags = (*_FLAGS, f"-I{_FOLDER}", "-march=native" if _is_x86() else "-mcpu=native")
    version = _run(*command, "--version")
    read = (*sorted((_FOLDER / op).glob("native*.[ch]")), *sorted(_FOLDER.glob("native_*.h")))
    made_from = [source.read_text(encoding="utf-8") for source in read]
    made_from += [*command, version, *flags, _processor()]
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:24]
    folder = cache_folder()
    if folder is None:
        with tempfile.TemporaryDirectory() as private:
            return _load(_compile(command, flags, sources, Path(private), f"{op}-{key}"))
    for kept in folder.glob(f"{op}-{key}-*.so"):
        if kept.name == f"{op}-{key}-{_digest(kept)}.so":
            return _load(kept)
        kept.unlink(missing_ok=True)
    return _load(_compile(command, flags, sources, folder, f"{op}-{key}"))


def _compile(
    command: Sequence[str], flags: Sequence[str], sources: Sequence[Path], folder: Path, name: str
) -> Path:
    # Written aside and renamed: whoever looks sees a whole file or none.
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        made = Path(aside) / "library.so"
        _run(*command, *flags, *map(str, sources), "-o", str(made), "-lm")
        library = folder / f"{name}-{_digest(made)}.so"
        os.replace(made, library)
    return library


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _CannotCompileError(f"the C compiler {command[0]} did not run: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[:500] or "it said nothing"
        raise _CannotCompileError(f"`{shlex.join(command)}` failed with status {done.returncode}: {said}")
    return done.stdout


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise _CannotCompileError(f"{path} cannot be loaded: {error}") from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def cache_folder() -> Path | None:
    """Where libraries are kept: the user's own, nobody else's to write in; None if there is no such place."""
    try:
        if named := os.environ.get("PHASEFIELD_CACHE_DIR"):
            folder = Path(named)
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "phasefield")
        folder = folder.resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: no home
        return None
    safe = status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if safe and os.access(folder, os.W_OK) else None


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")


def _processor() -> str:
    # What -march=native looks at. Linux tells the model and its instruction sets, others at least the name.
    telling = ("model", "model name", "flags", "Features", "CPU implementer", "CPU part", "isa", "cpu")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    return "\n".join(line for line in first.splitlines() if line.split(":")[0].strip() in telling)


def call(
    op: str,
    kernel: str,
    units: int,
    nanoseconds: float,
    sizes: Sequence[int],
    tensors: Sequence[Tensor | None],
) -> None:
    """Run a kernel on all its units, on as many threads as torch may use where the work is worth it.

    Args:
        op: whose library; compiled and loaded if it was not yet.
        kernel: the function's name.
        units: how many there are.
        nanoseconds: an estimate of the whole work on one thread.
        sizes: as the kernel's struct of sizes has them.
        tensors: as its struct of tensors has them; None is a null pointer.

    Raises:
        ValueError: the library cannot be had on this machine.
        MemoryError: the kernel found no memory for its workspace.
    """
    function = _function(op, kernel)
    # Arrays of Python's, which are made in a third of the time that those of ctypes take.
    numbers = array("q", sizes)
    pointers = array("Q", [0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    structs = numbers.buffer_info()[0], pointers.buffer_info()[0]
    threads = 1
    if nanoseconds >= _WORTH_TWO_THREADS:
        threads = max(1, min(torch.get_num_threads(), units))
    if threads == 1:
        failed = function(0, units, *structs)
    else:
        failed = any(_shared(function, units, threads, *structs))
    if failed:
        raise MemoryError(f"{op}'s native form found no memory for its workspace.")


@cache
def _function(op: str, kernel: str) -> Callable[..., int]:
    function = getattr(_loaded(op), kernel)
    function.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


@cache
def lanes(op: str) -> int:
    """Numbers in a vector of an op's kernels, which their C calls LANES."""
    return ctypes.c_int64.in_dll(_loaded(op), "lanes").value


def units_of_rows(op: str, rows: int, width: int) -> tuple[int, int]:
    """How native_rows.h cuts a scan: ``(units, vectors a unit)``, so that all of torch's threads get some."""
    across = -(-width // lanes(op))
    vectors = max(1, min(_MOST_VECTORS, rows * across // torch.get_num_threads()))
    return rows * -(-across // vectors), vectors


def _loaded(op: str) -> ctypes.CDLL:
    if reason := problem(op):
        raise ValueError(f"backend is 'native', but {reason}; use backend='torch'.")
    return _libraries[op]


def _shared(function: Callable[..., int], units: int, threads: int, *arguments: object) -> list[int]:
    # This thread takes the first part. Whatever happens to it, the others are waited for: they write into
    # tensors that the caller holds.
    bounds = [units * part // threads for part in range(threads + 1)]
    pool = _pool(os.getpid())
    others = [pool.submit(function, *part, *arguments) for part in zip(bounds[1:-1], bounds[2:], strict=True)]
    try:
        own = function(0, bounds[1], *arguments)
    finally:
        wait(others)
    return [own, *(other.result() for other in others)]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    # By process: a fork's child has none of its parent's threads. They are started as they are needed.
    return ThreadPoolExecutor(os.cpu_count(), "phasefield")


def angles(tensor: Tensor) -> tuple[Tensor, int]:
    """Constant angles as they are, contiguous, and which of the kernels' kinds they are: float64 is kept."""
    tensor = tensor if tensor.dtype in _KINDS else tensor.float()
    return tensor if tensor.is_contiguous() else tensor.contiguous(), _KINDS[tensor.dtype]


def side_by_side(tensor: Tensor | None, axes: int = 1) -> Tensor | None:
    """As kernels read what they read through strides: float32, the last axes contiguous."""
    if tensor is None:
        return None
    tensor, size = tensor if tensor.dtype == torch.float32 else tensor.float(), 1
    for axis in range(1, axes + 1):
        if tensor.stride(-axis) != size:
            return tensor.contiguous()
        size *= tensor.shape[-axis]
    return tensor


def plain(tensor: Tensor | None) -> Tensor | None:
    """Float32 and contiguous."""
    if tensor is None:
        return None
    # A decoding step asks for each of its tensors: what has nothing to do is not called.
    tensor = tensor if tensor.dtype == torch.float32 else tensor.float()
    return tensor if tensor.is_contiguous() else tensor.contiguous()
