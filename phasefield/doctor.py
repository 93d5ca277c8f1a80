"""``phasefield doctor``: what will run where and why, and a check of every op against its definition."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor

import phasefield_kernels as kernels
from phasefield_kernels import native

from . import __version__, command_line
from .errors import UserError
from .training.device import pick_backend, pick_device

# A new op adds a line: the function, and float32 inputs that keep its recurrence stable.
CHECKS: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], Callable[[], tuple[Tensor, ...]]]] = {
    "aperiodic_scan": (
        kernels.aperiodic_scan,
        lambda: (_noise(3, 37, 40), _noise(40).tanh(), kernels.golden_phases(40), _noise(3, 40)),
    ),
    "gravity_field": (
        kernels.gravity_field,
        lambda: (_noise(3, 37, 40), _noise(3, 37)),
    ),
    "hebbian_update_": (
        lambda weight, post, pre, backend: _updated(weight, post, pre, backend),
        lambda: (_noise(24, 40), _noise(37, 24), _noise(37, 40)),
    ),
    "hebbian_scan": (
        # Keys of the delta rule are not longer than 1.
        partial(kernels.hebbian_scan, rule="delta"),
        lambda: (
            *(_noise(2, 37, 3, 16), 0.1 * _noise(2, 37, 3, 16), _noise(2, 37, 3, 20)),
            *(-_noise(2, 37, 3).abs(), _noise(2, 37, 3).sigmoid()),
        ),
    ),
    "linoss_scan": (
        kernels.linoss_scan,
        lambda: (_noise(3, 37, 40), _noise(40).abs(), _noise(40).sigmoid(), _noise(3, 40, 2)),
    ),
    "oscillatory_scan": (
        kernels.oscillatory_scan,
        lambda: (_noise(3, 37, 40, 2), _noise(3, 37, 40), _noise(40), -_noise(40).abs(), _noise(3, 40, 2)),
    ),
    "phase_hebbian_scan": (
        # Keys of the delta rule are not longer than 1.
        partial(kernels.phase_hebbian_scan, rule="delta"),
        lambda: (
            *(_noise(2, 37, 3, 16, 2), 0.1 * _noise(2, 37, 3, 16, 2), _noise(2, 37, 3, 20, 2)),
            *(-_noise(2, 37, 3).abs(), _noise(2, 37, 3).sigmoid()),
        ),
    ),
    "phase_linear": (
        kernels.phase_linear,
        lambda: (_noise(3, 37, 40, 2), _noise(24, 40, 2), _noise(24, 2), _noise(24), _noise(3, 37, 24, 2)),
    ),
    "phase_matmul": (kernels.phase_matmul, lambda: (_noise(3, 20, 40, 2), _noise(40, 24, 2))),
    "phase_norm": (kernels.phase_norm, lambda: (_noise(3, 37, 40, 2), _noise(40), _noise(40))),
    "rotation_scan": (
        kernels.rotation_scan,
        lambda: (_noise(3, 37, 40, 2), _noise(40), -_noise(40).abs(), _noise(3, 40, 2)),
    ),
    "selective_scan": (
        kernels.selective_scan,
        lambda: (
            *(_noise(3, 37, 40), _noise(3, 37, 40).sigmoid(), -_noise(40, 8).exp()),
            *(_noise(3, 37, 8), _noise(3, 37, 2, 8)[:, :, 0], _noise(40), _noise(3, 37, 40)),
        ),
    ),
}
TOLERANCE = 1e-5
"""Of the largest difference, relative to the largest value: a hundred roundings of float32."""


@dataclass(frozen=True)
class DoctorFlags:
    """What to look at."""

    device: str = "auto"
    """the device that is described and whose ops are checked: auto, cpu, cuda, cuda:1, xpu …"""


def run(arguments: Sequence[str]) -> int:
    """Print the report; fails if an op gives wrong results."""
    flags = command_line.parse_flags(
        DoctorFlags,
        arguments,
        command="phasefield doctor",
        description="Show what will run where and why, and check every op against its definition in float64.",
    )
    device = pick_device(flags.device)
    for name, value in (*_software(), *_machine(), *_device(device)):
        print(f"{name:<14}{value}")
    backend = pick_backend(device)
    failed = []
    for name, (op, make_inputs) in CHECKS.items():
        verdict, good = check_op(op, make_inputs, device)
        runs, why = _what_runs(name, backend, device)
        print(f"{name:<20}{runs} backend ({why}): {verdict}", flush=True)
        if not good:
            failed.append(name)
    if failed:
        raise UserError(f"{', '.join(failed)} failed; PHASEFIELD_BACKEND=torch goes round compiled kernels.")
    return 0


def _software() -> Iterator[tuple[str, str]]:
    yield "phasefield", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "torch", torch.__version__
    triton = "triton-windows" if os.name == "nt" else "triton"
    for package in (triton, "accelerate", "transformers"):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"


def _machine() -> Iterator[tuple[str, str]]:
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield "cpu", f"{os.cpu_count()} logical cores, torch uses {torch.get_num_threads()} threads"
    if sys.platform == "linux" and torch.get_num_threads() > 1 and "GOMP_SPINCOUNT" not in os.environ:
        yield (
            "hint",
            "if other programs share the cores, GOMP_SPINCOUNT=0 keeps waiting threads from spinning",
        )
    for language, variable, names in (
        ("C", "CC", ("cc", "gcc", "clang", "cl")),
        ("C++", "CXX", ("c++", "g++", "clang++", "cl")),
    ):
        candidates = (os.environ[variable],) if os.environ.get(variable) else names
        path = next(filter(None, map(shutil.which, candidates)), None)
        use = "Triton's launchers and native forms" if language == "C" else "torch.compile on a CPU"
        yield f"{language} compiler", path or f"none found; {use} need one"
    yield "native forms", _native_forms()


def _native_forms() -> str:
    if reason := native.problem("phase_linear"):
        return f"not compiled: {reason}"
    folder = native.cache_folder() or "memory alone, as there is no folder that is safe to keep them in"
    return f"compiled by {' '.join(native.compiler())}, kept in {folder}"


def _device(device: torch.device) -> Iterator[tuple[str, str]]:
    if device.type == "cpu":
        yield "device", "cpu"
        return
    module = torch.get_device_module(device)
    properties = module.get_device_properties(device)
    yield "device", f"{device}, {properties.name}"
    free, total = module.mem_get_info(device)
    yield "its memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if device.type == "cuda":
        yield "capability", f"{properties.major}.{properties.minor}"
        yield "shared memory", f"{properties.shared_memory_per_block_optin:,} bytes a block"


def _what_runs(op: str, backend: str, device: torch.device) -> tuple[str, str]:
    # Where native forms are chosen, ops without one run on torch.
    if backend == "native":
        function, make_inputs = CHECKS[op]
        try:
            with torch.no_grad():
                function(*make_inputs(), backend="native")
        except ValueError:
            return "torch", "it has no native form"
    return backend, _reason(backend, device)


def _reason(backend: str, device: torch.device) -> str:
    if asked := os.environ.get("PHASEFIELD_BACKEND"):
        return f"PHASEFIELD_BACKEND={asked}"
    if backend == "triton":
        return f"Triton is installed and the device is {device.type}"
    if backend == "native":
        return "the device is a CPU with a C compiler"
    return "the device is a CPU" if device.type == "cpu" else "Triton is not installed"


def _updated(weight: Tensor, post: Tensor, pre: Tensor, backend: str | None) -> Tensor:
    # hebbian_update_ changes its weight and has no gradient.
    with torch.no_grad():
        return kernels.hebbian_update_(weight.clone(), post, pre, 0.5, 0.9, "oja", 20.0, backend=backend)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def check_op(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    make_inputs: Callable[[], tuple[Tensor, ...]],
    device: torch.device,
) -> tuple[str, bool]:
    """Outputs and gradients in float32 on the device, against the reference in float64 on the CPU."""
    inputs = make_inputs()
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    try:
        results = _values_and_gradients(op, [value.to(device) for value in inputs], None)
    except Exception as error:  # whatever a broken installation raises is this command's finding
        return f"FAILED: {type(error).__name__}: {error}", False
    errors = [
        ((result.cpu().double() - exact).abs().max() / exact.abs().max()).item()
        for result, exact in zip(results, _values_and_gradients(op, wide, "reference"), strict=True)
    ]
    largest = max(errors)
    good = largest <= TOLERANCE  # false for NaN
    return f"{'ok' if good else 'FAILED'}, largest relative error {largest:.1e}", good


def _values_and_gradients(
    op: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], backend: str | None
) -> list[Tensor]:
    leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
    outputs = op(*leaves, backend=backend)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if not any(output.requires_grad for output in outputs):
        return list(outputs)
    differentiable = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(sum(output.square().sum() for output in outputs), differentiable)
    return [*(output.detach() for output in outputs), *gradients]


if __name__ == "__main__":
    sys.exit(command_line.run(run))
