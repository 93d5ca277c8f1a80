"""Which device a command runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phasefield_kernels.backend import resolve

from ..errors import UsageError, UserError, reported

_TYPES = ("cpu", "cuda", "xpu")


def pick_device(name: str) -> torch.device:
    """The device a ``--device`` flag means.

    ``auto`` is the first GPU that fused kernels run on, else the CPU. Apple's GPUs are not among them:
    they have no float64, which the scans' angle tables need, so the CPU is the right choice there.

    Raises:
        UsageError: not a device this package runs on.
        UserError: a device this machine or this build of PyTorch does not have.
    """
    present = [kind for kind in _TYPES if kind == "cpu" or getattr(torch, kind).is_available()]
    if name == "auto":
        return torch.device(present[1] if len(present) > 1 else "cpu")
    kind, _, index = name.partition(":")
    if kind not in _TYPES or (":" in name and not index.isdigit()):
        raise UsageError(f"--device is {name!r}; allowed are auto, cpu, cuda, cuda:N, xpu and xpu:N.")
    count = 1 if kind == "cpu" else getattr(torch, kind).device_count()
    if kind not in present or int(index or 0) >= count:
        devices = ", ".join(describe_device(torch.device(other)) for other in present)
        raise UserError(f"--device is {name!r}, which PyTorch does not see here; it sees: {devices}.")
    return torch.device(name)


def pick_backend(device: torch.device) -> str:
    """The backend that the ops run on for tensors of a device; of native ones all that have such a form.

    Raises:
        UserError: ``PHASEFIELD_BACKEND`` names none, or one that cannot run there.
    """
    with reported(ValueError):
        return resolve(None, torch.empty(0, device=device), "phase_linear")


@contextmanager
def out_of_memory_reported() -> Iterator[None]:
    """Turn running out of memory into :class:`UserError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises a plain RuntimeError.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in str(
            error
        ):
            raise
        raise UserError(
            f"out of memory ({error!s:.300}). Less is needed with a smaller --batch-size, --seq-len or model."
        ) from error


def describe_device(device: torch.device) -> str:
    """The device with its name or thread count: ``cuda (NVIDIA …)``, ``cpu (8 threads)``."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device} ({torch.get_device_module(device).get_device_name(device)})"
