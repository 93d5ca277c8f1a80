"""Peers' Triton kernels beside ours, from the same compiler: ``python -m benchmarks.peer_kernels``.

What is importable of accelerated-scan, mamba_ssm's Triton sources and flash-linear-attention is called as
its users would call it, on the work that one of our ops does, and compiled through the same harness; a peer
that is missing is skipped with a reason. Nothing of theirs is part of this project. To have them without
their compiled parts, in a folder that is then put on ``PYTHONPATH``:

    pip install --no-deps --target FOLDER accelerated-scan fla-core flash-linear-attention einops
    pip download --no-deps --no-binary :all: mamba-ssm   # then unpack its mamba_ssm/ into FOLDER

Peers choose configurations by timing them at the first call. Here all of these compile, and each kernel is
given the one that is best for it by this count: no spills if it can be had, then fewest instructions. What
the others do is told in ``configurations``: how many there are, spill, or do not fit.

Instructions of an element are estimated as in :mod:`.predict`, bytes from the tensors that launches are
given, each counted once a launch: for both sides alike. Nothing here is a time.
"""

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from . import baseline
from .targets import TARGETS

OURS = "phasefield"
OUTPUT = baseline.DATA / "peer_kernels.json"
BATCH, TIME, HEADS, SIZE = 2, 1024, 8, 64
CHANNELS, STATES = 1024, 16


class Pair(NamedTuple):
    """The same work, by a peer and by us.

    Attributes:
        work: what it is, with sizes.
        peer: whose; the package to import.
        elements: numbers that come out, to which figures are ratios.
        theirs, ours: run it once.
        differs: where the two are not quite the same work.
    """

    work: str
    peer: str
    elements: int
    theirs: Callable[[], object]
    ours: Callable[[], object]
    differs: str = ""


def _half(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16)


def _complex_scan_theirs() -> None:
    scan = importlib.import_module("accelerated_scan.complex").scan
    scan(*(torch.randn(BATCH, CHANNELS, TIME, dtype=torch.complex64) for _ in range(2)))


def _complex_scan_ours() -> None:
    from phasefield_kernels import rotation_scan

    by_token = (torch.rand(BATCH, TIME, CHANNELS) for _ in range(2))
    angle, decay = by_token
    rotation_scan(torch.randn(BATCH, TIME, CHANNELS, 2), angle, -decay, backend="triton")


def _step_inputs() -> dict[str, Tensor]:
    token = {name: _half(16, CHANNELS) for name in ("x", "dt", "z")}
    return token | {
        "A": -torch.rand(CHANNELS, STATES),
        "B": _half(16, STATES),
        "C": _half(16, STATES),
        "D": torch.randn(CHANNELS),
        "dt_bias": torch.randn(CHANNELS),
    }


def _step_theirs() -> None:
    module = importlib.import_module("mamba_ssm.ops.triton.selective_state_update")
    module.selective_state_update(torch.zeros(16, CHANNELS, STATES), **_step_inputs(), dt_softplus=True)


def _step_ours() -> None:
    from phasefield_kernels import selective_scan_step_

    given = _step_inputs()
    inputs = (given[name] for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias"))
    selective_scan_step_(*inputs, True, torch.zeros(16, CHANNELS, STATES), backend="triton")


def _ssd_inputs() -> tuple[Tensor, ...]:
    projections = (_half(BATCH, TIME, HEADS, SIZE) for _ in range(2))
    return (
        _half(BATCH, TIME, HEADS, SIZE),
        torch.rand(BATCH, TIME, HEADS),
        -torch.rand(HEADS),
        *projections,
    )


def _ssd_theirs() -> None:
    module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined(*_ssd_inputs(), 256)


def _ssd_ours() -> None:
    from phasefield_kernels import use_backend
    from phasefield_kernels.compat.mamba_ssm import ssd_scan

    with use_backend("triton"):
        ssd_scan(*_ssd_inputs(), 256)


def _memory_inputs() -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_half(BATCH, TIME, HEADS, SIZE) for _ in range(3))


def _decay_theirs() -> None:
    chunk = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    chunk(*_memory_inputs(), g=-torch.rand(BATCH, TIME, HEADS))


def _decay_ours() -> None:
    from phasefield_kernels import hebbian_scan

    hebbian_scan(*_memory_inputs(), -torch.rand(BATCH, TIME, HEADS), rule="hebb", backend="triton")


def _delta_inputs() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _memory_inputs()
    return q, k / SIZE, v  # the delta rule wants keys that are not longer than 1


def _delta_theirs() -> None:
    chunk = importlib.import_module("fla.ops.delta_rule").chunk_delta_rule
    chunk(*_delta_inputs(), torch.rand(BATCH, TIME, HEADS).bfloat16())


def _delta_ours() -> None:
    from phasefield_kernels import hebbian_scan

    hebbian_scan(*_delta_inputs(), None, torch.rand(BATCH, TIME, HEADS), rule="delta", backend="triton")


_TOKENS = BATCH * TIME * HEADS * SIZE
_OF = f"B {BATCH}, T {TIME}, H {HEADS}, K = V = {SIZE}, bfloat16, forward"
PAIRS = (
    Pair(
        f"complex scan by token, B {BATCH}, T {TIME}, D {CHANNELS}, float32, forward",
        "accelerated_scan",
        BATCH * TIME * CHANNELS,
        _complex_scan_theirs,
        _complex_scan_ours,
        "theirs takes the factor as a complex number, time contiguous; ours takes angle and decay",
    ),
    Pair(
        f"Mamba's decoding step, B 16, D {CHANNELS}, N {STATES}, bfloat16",
        "mamba_ssm",
        16 * CHANNELS * STATES,
        _step_theirs,
        _step_ours,
    ),
    Pair(f"Mamba-2's scan, {_OF}", "mamba_ssm", _TOKENS, _ssd_theirs, _ssd_ours),
    Pair(f"decayed linear attention, {_OF}", "fla", _TOKENS, _decay_theirs, _decay_ours),
    Pair(
        f"delta rule, {_OF}",
        "fla",
        _TOKENS,
        _delta_theirs,
        _delta_ours,
        "theirs returns no final state unless asked",
    ),
)


@contextmanager
def _as_on_a_gpu(target: str) -> Iterator[None]:
    # What peers ask of a device at import and around a launch.
    capability = divmod(TARGETS[target].triton.arch, 10)
    properties = types.SimpleNamespace(name="none", multi_processor_count=82, total_memory=24 << 30)
    answers = {
        "device": lambda *_: nullcontext(),
        "get_device_name": lambda *_: properties.name,
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        yield


def _import_without_extension(package: str) -> None:
    # mamba_ssm's __init__ imports its compiled part, which its Triton sources do not need.
    spec = importlib.util.find_spec(package)
    if package == "mamba_ssm" and package not in sys.modules:
        bare = types.ModuleType(package)
        bare.__path__, bare.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules[package] = bare


def _every_configuration(self: Any, *arguments: Any, **options: Any) -> Any:
    # In place of an autotuner's run: all of them, since which is fastest takes a device to tell.
    from triton.errors import TritonError

    kernel = None
    for configuration in self.configs:
        try:
            kernel = self.fn.run(*arguments, **options, **configuration.all_kwargs()) or kernel
        except TritonError:  # it does not compile for this target: its peers' tuners skip it too
            continue
    return kernel


def launches(run: Callable[[], object], target: str) -> list[list[dict[str, Any]]]:
    """What is launched, in order: of each launch the kernel in every configuration that its tuner tries."""
    import triton
    from triton.runtime.autotuner import Autotuner

    from .compile_gate import compile_instead_of_launching
    from .machine_code import read_all

    compiled = compile_instead_of_launching(TARGETS[target])
    compile_only = triton.JITFunction.run
    noted: list[dict[str, Any]] = []

    def note(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        named = {**dict(zip(self.arg_names, arguments, strict=False)), **options}
        # By place in memory: a state that is changed in place may be given once or twice.
        sizes = {t.data_ptr(): t.numel() * t.element_size() for t in named.values() if isinstance(t, Tensor)}
        place = grid(named) if callable(grid) else grid
        noted.append(
            {
                "kernel": self.fn.__name__,
                "grid": [*map(int, place), *[1] * (3 - len(place))],
                "tensors": {str(pointer): (size, 0, size) for pointer, size in sizes.items()},
            }
        )
        return compile_only(self, *arguments, grid=grid, warmup=warmup, **options)

    compiled.clear()
    with patch.object(triton.JITFunction, "run", note), patch.object(Autotuner, "run", _every_configuration):
        run()
    found: list[list[dict[str, Any]]] = []
    for launch, code in zip(noted, read_all(compiled, TARGETS[target]), strict=True):
        one = launch | {"code": asdict(code), "violations": code.violations(TARGETS[target])}
        last = found[-1][-1] if found else None
        # An autotuner's configurations follow each other on the same tensors.
        if last and last["kernel"] == one["kernel"] and last["tensors"] == one["tensors"]:
            found[-1].append(one)
        else:
            found.append([one])
    compiled.clear()
    return found


def summary(found: list[list[dict[str, Any]]], elements: int) -> dict[str, Any]:
    """Figures of one side: of the worst launch, and sums over launches by element."""
    from .predict import demand

    chosen = []
    for configurations in found:
        priced = []
        for launch in configurations:
            programs = launch["grid"][0] * launch["grid"][1] * launch["grid"][2]
            asked = demand(launch["code"], launch | {"sampled": programs, "dots": {}})
            priced.append((bool(launch["violations"]), asked.instructions, asked.bytes, launch["code"]))
        chosen.append(min(priced, key=lambda price: price[:2]))
    codes = [code for *_, code in chosen]
    every = [launch for configurations in found for launch in configurations]
    return {
        "launches": len(found),
        "registers": max(code["registers"] for code in codes),
        "spilled": max(code["spilled"] for code in codes),
        "shared_memory": max(code["shared"] for code in codes),
        "instructions_per_element": float(f"{sum(p[1] for p in chosen) * 32 / elements:.3g}"),
        "bytes_per_element": float(f"{sum(p[2] for p in chosen) / elements:.3g}"),
        "configurations": len(every),
        "not_usable": sum(bool(launch["violations"]) for launch in every),
        "kernels": [configurations[0]["kernel"] for configurations in found],
    }


def worse(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The figures in which ours is worse, but for registers and shared memory, which are to be used."""
    guarded = ("launches", "spilled", "instructions_per_element", "bytes_per_element")
    return [name for name in guarded if ours[name] > theirs[name]]


def compare(pair: Pair, target: str) -> list[dict[str, Any]]:
    """Two rows, ours and theirs.

    Raises:
        ModuleNotFoundError: the peer is not installed.
    """
    if importlib.util.find_spec(pair.peer) is None:
        raise ModuleNotFoundError(f"{pair.peer} is not installed")
    _import_without_extension(pair.peer)
    with _as_on_a_gpu(target):
        theirs = summary(launches(pair.theirs, target), pair.elements)
    ours = summary(launches(pair.ours, target), pair.elements)
    shared = {"work": pair.work, "target": target}
    return [
        shared | {"by": OURS} | ours | {"worse_in": ", ".join(worse(ours, theirs)), "note": ""},
        shared
        | {"by": pair.peer}
        | theirs
        | {"worse_in": ", ".join(worse(theirs, ours)), "note": pair.differs},
    ]


def main() -> None:
    """Print the table and store it."""
    parser = argparse.ArgumentParser(description="Peers' Triton kernels beside ours, compiled alike.")
    parser.add_argument("--target", choices=[t for t in TARGETS if t.startswith("sm_")], default="sm_86")
    parser.add_argument("--peer", nargs="+", choices=sorted({pair.peer for pair in PAIRS}))
    arguments = parser.parse_args()
    layout = "  {:16}  {:>8}  {:>9}  {:>7}  {:>6}  {:>13}  {:>14}  {:>14}  {:>10}  {}"
    rows = []
    for pair in PAIRS:
        if arguments.peer and pair.peer not in arguments.peer:
            continue
        print(f"{pair.work}, {arguments.target}" + (f" ({pair.differs})" if pair.differs else ""))
        try:
            both = compare(pair, arguments.target)
        except ImportError as error:
            print(f"  skipped: {error}")
            continue
        rows += both
        heads = ("launches", "registers", "spilled", "shared", "bytes/element", "instr./element")
        print(layout.format("", *heads, "configurations", "not usable", "worse in"))
        for side in both:
            figures = [side[key] for key in ("launches", "registers", "spilled", "shared_memory")]
            figures += [side[key] for key in ("bytes_per_element", "instructions_per_element")]
            tried = side["configurations"], side["not_usable"], side["worse_in"] or "nothing"
            print(layout.format(side["by"], *figures, *tried), flush=True)
    replaced = {(row["work"], row["target"]) for row in rows}
    kept = [row for row in baseline.read(OUTPUT) if (row["work"], row["target"]) not in replaced]
    baseline.write(OUTPUT, [*kept, *rows])


if __name__ == "__main__":
    main()
