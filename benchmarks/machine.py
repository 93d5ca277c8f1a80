"""What machine and settings a number was measured with, and how fast that machine is at all."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .clock import Clock, CpuClock, CudaClock, in_turns

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "LD_PRELOAD")
PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "mambapy",
    "mamba_ssm",
    "causal_conv1d",
    "fla",
    "accelerated-scan",
)
"""The last ones are the peers; None where one is not installed."""

COPY_SIZES = (1 << 16, 1 << 20, 1 << 24, 1 << 28)
"""Bytes read and written by the copies whose rate is measured: from a core's cache to memory."""

PRODUCT = 1024
"""Rows and columns of the matrix product whose rate is measured; eight times as many on a GPU."""


def this_device() -> str:
    """``"cuda"`` where there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def clock_for(device: str) -> Clock:
    """The clock of a device."""
    return CudaClock() if device == "cuda" else CpuClock()


def settings(device: str) -> dict[str, Any]:
    """Everything that moves numbers, the same for all competitors of a run."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        **{name: os.environ.get(name) for name in ENVIRONMENT},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def load() -> float | None:
    """Processes that wanted a core in the last minute, on average; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    # With a "+" if Python files are changed (data are, by measuring); None outside a checkout.
    def git(*arguments: str) -> str:
        command = ("git", "-C", ROOT, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--untracked-files=no", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def rates(device: str, clock: Clock | None = None, budget: float = 0.3) -> dict[str, Any]:
    """How fast this machine copies, multiplies matrices and takes exponentials.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        clock: the device's.
        budget: seconds for each.

    Returns:
        ``copy_gb_s``: bytes moved → GB/s, read and written counted; ``gemm_gflop_s``: dtype → GFLOP/s of a
        square product of 1024 (8192 on a GPU); ``exp_g_s``: exponentials, 10^9 a second.
    """
    clock = clock or clock_for(device)

    def best(call: Any) -> float:
        return min(in_turns({"": call}, clock, budget)[""])

    copies = {}
    for size in COPY_SIZES:
        source = torch.randn(size // 8, device=device)
        target = torch.empty_like(source)
        copies[str(size)] = round(size / best(lambda s=source, t=target: t.copy_(s)) / 1e9, 2)
    products, width = {}, PRODUCT * (8 if device == "cuda" else 1)
    for name in ("float32", "bfloat16"):
        a, b = (torch.randn(width, width, device=device).to(getattr(torch, name)) for _ in range(2))
        products[name] = round(2 * width**3 / best(lambda a=a, b=b: a @ b) / 1e9, 2)
    x = torch.randn(1 << (24 if device == "cuda" else 16), device=device)
    out = torch.empty_like(x)
    exponentials = x.numel() / best(lambda: torch.exp(x, out=out)) / 1e9
    return {"copy_gb_s": copies, "gemm_gflop_s": products, "exp_g_s": round(exponentials, 3)}


def bound(
    moved: int, flops: float, special: float, dtype: str, measured: dict[str, Any]
) -> tuple[float, str]:
    """The least time that a race can take on this machine, in seconds, and what sets it.

    Args:
        moved: bytes; at the rate of a copy of the next larger size.
        flops: at a matrix product's rate.
        special: at that of exponentials.
        dtype: ``"float32"`` or ``"bfloat16"``, of the matrix product.
        measured: what :func:`rates` returned.
    """
    sizes = sorted(measured["copy_gb_s"], key=int)
    size = next((size for size in sizes if int(size) >= moved), sizes[-1])
    times = {
        "copy": moved / (measured["copy_gb_s"][size] * 1e9),
        "gemm": flops / (measured["gemm_gflop_s"][dtype] * 1e9),
        "exp": special / (measured["exp_g_s"] * 1e9),
    }
    slowest = max(times, key=times.__getitem__)
    return times[slowest], slowest
