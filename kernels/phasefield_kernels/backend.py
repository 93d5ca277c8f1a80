"""Which implementation of an op runs.

==============  ====================================================================================
``reference``   the definition: a plain PyTorch loop that autograd differentiates; slow, the oracle
``torch``       fast pure PyTorch with a hand-written backward; what a CPU runs
``triton``      fused Triton kernels; what a GPU runs (a CPU only inside Triton's interpreter)
``auto``        ``triton`` for tensors on a GPU where Triton is installed, else ``torch``
==============  ====================================================================================

The choice is made per call: the ``backend`` argument of an op if given, else the innermost
:func:`use_backend`, else the environment variable ``PHASEFIELD_BACKEND``, else ``auto``.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BACKENDS = ("auto", "triton", "torch", "reference")

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
        name: ``"auto"``, ``"triton"``, ``"torch"`` or ``"reference"``.

    Raises:
        ValueError: any other name.
    """
    global _chosen
    before, _chosen = _chosen, _checked(name, "use_backend: name")
    try:
        yield
    finally:
        _chosen = before


def resolve(backend: str | None, tensor: torch.Tensor) -> str:
    """The backend that runs for a tensor: ``"triton"``, ``"torch"`` or ``"reference"``.

    Args:
        backend: the caller's wish, or None for the setting in force.
        tensor: the op's main input; its device and dtype decide ``auto``.

    Raises:
        ValueError: an unknown name, or ``triton`` where Triton cannot run.
    """
    if backend is None:
        name = _checked(_chosen, "PHASEFIELD_BACKEND")
    else:
        name = _checked(backend, "backend")
    on_gpu = tensor.device.type in ("cuda", "xpu")
    if name == "auto":
        # No GPU of a user's machine is fast in float64, and the fused kernels compute in float32.
        fused = on_gpu and _triton_installed and tensor.dtype != torch.float64
        return "triton" if fused else "torch"
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
