"""Running a race: who takes part, the proof that all compute the same, times, memory, and a row for each."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clock import Clock, in_turns, quartiles
from .machine import bound, load
from .memory import peak_bytes
from .operation import EXACT, FORWARD, PIECE, SINGLE, STEP, STREAM, TRAINING, Inputs, Operation, Peer, Race

OURS = "phasefield"
SHORT = 256
"""The longest T that the reference is timed at."""

SECONDS = 1.5
"""For the samples of all competitors of a race."""


class Competitor(NamedTuple):
    """One of a race.

    Attributes:
        name: ``phasefield torch``, or the peer's.
        peer: None for our own backends.
        backend: ours.
    """

    name: str
    peer: Peer | None
    backend: str | None


def competitors(race: Race, device: str) -> Iterator[Competitor]:
    """Our backends that run on the device (the reference at small sizes alone), then the peers."""
    backends = ["triton", "torch"] if device == "cuda" else ["native", "torch"]
    if race.pass_ in (FORWARD, TRAINING) and race.quick and race.shape.get("T", 0) <= SHORT:
        backends.append("reference")
    yield from (Competitor(f"{OURS} {backend}", None, backend) for backend in backends)
    if race.pass_ != STREAM:
        peers = race.operation.step_peers if race.pass_ == STEP else race.operation.peers
        yield from (Competitor(peer.name, peer, None) for peer in peers)


def absent(competitor: Competitor, race: Race, device: str) -> str | None:
    """Why a competitor does not take part; None if it does."""
    peer = competitor.peer
    if peer is None:
        return _no_native_form(competitor, race) if competitor.backend == "native" else None
    if peer.gpu_only and device != "cuda":
        return f"{peer.name} has no form for a CPU"
    if peer.package is not None and importlib.util.find_spec(peer.package) is None:
        return f"{peer.package} is not installed"
    if race.dtype not in peer.dtypes:
        return f"{peer.name} does not take {race.dtype}"
    longest = peer.longest.get(race.pass_)
    if longest is not None and race.shape["T"] > longest:
        return f"{peer.name}, {race.pass_}, T > {longest}: {peer.why}"
    return None


def _no_native_form(competitor: Competitor, race: Race) -> str | None:
    # The op itself says so, of small inputs.
    inputs = inputs_of(race.operation, race.operation.small, torch.float32, "cpu")
    small = replace(race, shape=race.operation.small, dtype=torch.float32)
    try:
        prepared(small, competitor, inputs)()
    except ValueError as error:
        return str(error)
    return None


def inputs_of(operation: Operation, shape: Any, dtype: torch.dtype, device: str) -> Inputs:
    """The same random inputs for everybody."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = operation.inputs({"T": 1, **shape}, dtype)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def prepared(race: Race, competitor: Competitor, inputs: Inputs) -> Callable[[], object]:
    """What is timed. What is made once is made here, from the competitor's own copy of the inputs."""
    operation, peer = race.operation, competitor.peer
    own = {name: tensor.clone() for name, tensor in inputs.items()}
    if race.pass_ == STEP:
        token = operation.token(own)
        state = torch.randn(operation.state(**own), device=_device(own))
        if peer is None:
            return torch.no_grad()(lambda: operation.step(**token, state=state, backend=competitor.backend))
        token = peer.layout(**token)
        return torch.no_grad()(lambda: peer.run(**token, state=state))
    if race.pass_ == STREAM:
        return torch.no_grad()(lambda: _stream(operation, own, competitor.backend))
    if peer is None:
        arguments, run = own | {"backend": competitor.backend}, operation.output
    else:
        arguments, run = peer.layout(**own), peer.run
    if race.pass_ == FORWARD:
        return torch.no_grad()(lambda: run(**arguments))
    leaves = [
        tensor.requires_grad_()
        for name, tensor in arguments.items()
        if isinstance(tensor, Tensor) and _differentiable(tensor) and name not in operation.constant
    ]
    with torch.no_grad():
        cotangent = torch.randn_like(run(**arguments))
    return lambda: torch.autograd.grad(run(**arguments), leaves, cotangent)


def _stream(operation: Operation, inputs: Inputs, backend: str | None) -> Tensor:
    # A sequence in pieces, whose outputs are thrown away: what stays is the state.
    length = inputs[operation.timed[0]].shape[1]
    state = None
    for begin in range(0, length, PIECE):
        piece = operation.piece(inputs, begin, min(length, begin + PIECE))
        _, state = operation.call(**piece, initial_state=state, backend=backend)
    return state


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _device(inputs: Inputs) -> torch.device:
    return next(iter(inputs.values())).device


@cache
def prove(operation: Operation, competitor: Competitor, stepping: bool, device: str) -> None:
    """Check on a small shape that a competitor computes what the reference does, gradients as well.

    Raises:
        AssertionError: it does not; its time would mean nothing.
    """
    ours = EXACT if competitor.backend in ("torch", "reference") else SINGLE
    dtype, tolerance = competitor.peer.precision if competitor.peer else ours
    wide = _cast(inputs_of(operation, operation.small, torch.float64, device), torch.float64)
    inputs = _cast(wide, dtype)
    reference = lambda **own: operation.output(**own, backend="reference")  # noqa: E731
    wanted = _values_and_gradients(operation, reference, wide)
    if stepping:
        found = [_step_by_step(operation, competitor, inputs)]
    elif competitor.peer is None:
        run = lambda **own: operation.output(**own, backend=competitor.backend)  # noqa: E731
        found = _values_and_gradients(operation, run, inputs)
    else:
        peer = competitor.peer
        run = lambda **own: peer.restore(peer.run(**peer.layout(**own)))  # noqa: E731
        found = _values_and_gradients(operation, run, inputs)
    for index, (one, other) in enumerate(zip(found, wanted, strict=not stepping)):
        error = (one.double() - other).abs().max() / other.abs().max()
        what = "output" if index == 0 else "gradient"
        assert error <= tolerance, f"{competitor.name}, {operation.title}: {what} off by {error:.1e}"


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    # Parameters as well, whose own float32 would hide an error, or look like one.
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}


def _values_and_gradients(operation: Operation, run: Callable[..., Tensor], inputs: Inputs) -> list[Tensor]:
    # An op that changes an input gets one of its own.
    own = {name: tensor.clone() for name, tensor in inputs.items()}
    if not operation.gradients:
        with torch.no_grad():
            return [run(**own)]
    leaves = [
        tensor.requires_grad_()
        for name, tensor in own.items()
        if _differentiable(tensor) and name not in operation.constant
    ]
    output = run(**own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        cotangent = torch.randn(output.shape, dtype=torch.float64).to(output)
    return [output.detach(), *torch.autograd.grad(output, leaves, cotangent)]


@torch.no_grad()
def _step_by_step(operation: Operation, competitor: Competitor, inputs: Inputs) -> Tensor:
    wide = next(iter(inputs.values())).dtype
    state = torch.zeros(operation.state(**inputs), dtype=wide, device=_device(inputs))
    outputs = []
    for time in range(inputs[operation.timed[0]].shape[1]):
        token = operation.token(inputs, time)
        if competitor.peer is None:
            outputs.append(operation.step(**token, state=state, backend=competitor.backend))
        else:
            peer = competitor.peer
            outputs.append(peer.restore(peer.run(**peer.layout(**token), state=state)).clone())
    return torch.stack(outputs, dim=1)


def moved_bytes(race: Race, inputs: Inputs) -> int:
    """The bytes that must move: inputs read and the output written once.

    With gradients, the inputs and the output's gradient are read for them once more, and one is written for
    each differentiable input. A step reads its state and writes it.
    """

    def size(tensor: Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    operation = race.operation
    if race.pass_ == STEP:
        token, state = operation.token(inputs), operation.state(**inputs)
        output = operation.output(**inputs, backend="torch")
        return sum(map(size, token.values())) + size(output[:, 0]) + 2 * 4 * torch.Size(state).numel()
    with torch.no_grad():
        output = size(operation.output(**inputs, backend="torch"))
    read = sum(map(size, inputs.values()))
    if race.pass_ != TRAINING:
        return read + output
    grads = sum(
        size(tensor)
        for name, tensor in inputs.items()
        if _differentiable(tensor) and name not in operation.constant
    )
    return 2 * read + 2 * output + grads


def run_race(race: Race, device: str, clock: Clock, measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Time all competitors of a race in turns.

    Args:
        race: which.
        device: ``"cpu"`` or ``"cuda"``.
        clock: the device's.
        measured: this machine's rates.

    Returns:
        A row by competitor, with its ``samples`` in seconds.
    """
    taking_part = [c for c in competitors(race, device) if absent(c, race, device) is None]
    for competitor in taking_part:
        prove(race.operation, competitor, race.pass_ == STEP, device)
    inputs = inputs_of(race.operation, race.shape, race.dtype, device)
    calls = {competitor.name: prepared(race, competitor, inputs) for competitor in taking_part}
    busy = load()
    samples = in_turns(calls, clock, SECONDS)
    dtype = str(race.dtype).removeprefix("torch.")
    work = race.operation.work({"T": 1, **race.shape})
    factor = 1 + work.backward if race.pass_ == TRAINING else 1
    moved, flops = moved_bytes(race, inputs), work.flops * factor
    least, limit = bound(moved, flops, work.special * factor, dtype, measured)
    rows = {}
    for competitor in taking_part:
        first, median, third = quartiles(samples[competitor.name])
        rows[competitor.name] = {
            "op": race.operation.name,
            "variant": race.operation.variant,
            "part": race.part,
            "pass": race.pass_,
            "dtype": dtype,
            "shape": dict(race.shape),
            "competitor": competitor.name,
            "median_ms": _digits(median * 1e3),
            "q1_ms": _digits(first * 1e3),
            "q3_ms": _digits(third * 1e3),
            "rounds": len(samples[competitor.name]),
            "peak_mb": _digits(peak_bytes(calls[competitor.name], device) / 1e6),
            "gb_s": _digits(moved / median / 1e9),
            "gflop_s": _digits(flops / median / 1e9),
            "bound_ms": _digits(least * 1e3),
            "limit": limit,
            "ratio": _digits(median / least),
            "load": busy,
            "samples": samples[competitor.name],
        }
    return rows


def _digits(number: float) -> float:
    return float(f"{number:.4g}")
