"""Which implementation of an op runs.

==============  ====================================================================================
``reference``   the definition: a plain PyTorch loop that autograd differentiates; slow, the oracle
``native``      C kernels, compiled at first use; what a CPU runs where there is a C compiler
``torch``       fast pure PyTorch with a hand-written backward; what else a CPU runs
``triton``      fused Triton kernels; what a GPU runs (a CPU only inside Triton's interpreter)
``auto``        ``triton`` for tensors on a GPU where Triton is installed, ``native`` for float32, bfloat16
                and float16 on a CPU where the op has such a form and it compiles, else ``torch``
==============  ====================================================================================

The choice is made per call: the ``backend`` argument of an op if given, else the innermost
:func:`use_backend`, else the environment variable ``PHASEFIELD_BACKEND``, else ``auto``.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .native import problem

BACKENDS = ("auto", "triton", "native", "torch", "reference")

_chosen = os.environ.get("PHASEFIELD_BACKEND", "auto")
_triton_installed = importlib.util.find_spec("triton") is not None
_interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0", "false", "off")

compile_only = False
"""Set by the compile gate: CPU tensors stand for GPU tensors, and launches compile without running."""


def _checked(name: str, given_by: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{given_by} is {name!r}; allowed are {', '.join(BACKENDS)}.")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op in this block on the named backend, unless a call names its own.

    Args:
        name: ``"auto"``, ``"triton"``, ``"native"``, ``"torch"`` or ``"reference"``.

    Raises:
        ValueError: any other name.
    """
    global _chosen
    before, _chosen = _chosen, _checked(name, "use_backend: name")
    try:
        yield
    finally:
        _chosen = before


def resolve(backend: str | None, tensor: torch.Tensor, native: str | None = None) -> str:
    """The backend that runs for a tensor: ``"triton"``, ``"native"``, ``"torch"`` or ``"reference"``.

    Args:
        backend: the caller's wish, or None for the setting in force.
        tensor: the op's main input; its device and dtype decide ``auto``.
        native: the folder whose native form takes these inputs; None if there is none.

    Raises:
        ValueError: an unknown name, or ``triton`` or ``native`` where they cannot run.
    """
    if backend is None:
        name = _checked(_chosen, "PHASEFIELD_BACKEND")
    else:
        name = _checked(backend, "backend")
    on_gpu = tensor.device.type in ("cuda", "xpu")
    if name == "auto":
        # No GPU of a user's machine is fast in float64, and the fused kernels compute in float32.
        fused = on_gpu and _triton_installed and tensor.dtype != torch.float64
        if fused:
            return "triton"
        return "native" if native is not None and _why_not_native(native, tensor) is None else "torch"
    if name == "native" and (reason := _why_not_native(native, tensor)):
        raise ValueError(f"backend is 'native', but {reason}; use backend='auto' or 'torch'.")
    if name == "triton":
        if not _triton_installed:
            raise ValueError(
                "backend is 'triton', but Triton is not installed; install `triton` (Linux) or "
                "`triton-windows`, or use backend='torch'."
            )
        if tensor.dtype == torch.float64:
            raise ValueError(
                "backend is 'triton', which computes in float32; use 'torch' for float64 tensors."
            )
        if not (on_gpu or _interpreted or compile_only):
            raise ValueError(
                f"backend is 'triton', but the tensors are on {tensor.device}; move them to a GPU, use "
                "backend='torch', or set TRITON_INTERPRET=1 before Python starts to run the kernels in "
                "Triton's (slow) interpreter."
            )
    return name


def _why_not_native(op: str | None, tensor: torch.Tensor) -> str | None:
    if tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}"
    if op is None:
        return "this op has no native form for these arguments"
    if tensor.dtype == torch.float64:
        return "it computes in float32, not in float64"
    return problem(op)
