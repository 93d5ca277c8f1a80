"""Which device a command runs on."""

import torch

from ..errors import UsageError, UserError

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


def describe_device(device: torch.device) -> str:
    """The device with its name or thread count: ``cuda (NVIDIA …)``, ``cpu (8 threads)``."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device} ({torch.get_device_module(device).get_device_name(device)})"
