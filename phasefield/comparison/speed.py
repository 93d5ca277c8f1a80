"""Training and decoding: tokens a second, and the memory that is taken."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..data import RandomWindows
from ..generation import Decoding
from ..training.config import TrainConfig
from ..training.optimizer import make_optimizer

WARM_UPS, TRAINING_STEPS = 2, 9
DECODED = 64


def training_speed(
    model: nn.Module, ids: Tensor, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Optimizer steps on a model that is thrown away: the median of nine, after two to warm up.

    Returns:
        ``tokens_per_second``, ``seconds_per_step``, and ``peak_bytes``: weights, Adam's moments, and what
        else a step needs at most at the same time.
    """
    model = model.to(device).train()
    optimizer = make_optimizer(model, config)
    batches = RandomWindows(ids, config.batch_size, config.seq_len, config.seed, device)
    counter = iter(range(2**31))

    def step() -> None:
        for _ in range(config.gradient_accumulation):
            loss = model.loss(*batches.batch(next(counter)))
            (loss.total / config.gradient_accumulation).backward()
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UPS):
        step()
    seconds = statistics.median(seconds_of(step, device) for _ in range(TRAINING_STEPS))
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return {
        "tokens_per_second": config.batch_size * config.seq_len * config.gradient_accumulation / seconds,
        "seconds_per_step": seconds,
        "peak_bytes": bytes_of([*model.parameters(), *moments]) + peak_bytes(step, device),
    }


def decoding_speed(model: nn.Module, prompt: Tensor) -> dict[str, Any]:
    """What 64 tokens after a prompt ``[1, T]`` cost.

    Returns:
        ``tokens_per_second``: of a causal model the steps after the prompt is read, their median; of another
        one the whole answer. ``peak_bytes``: what reading, in passes as :class:`Decoding` makes them, and
        writing need beside the weights.
        ``state_bytes``: what a causal model keeps of the text, None for another one.
    """
    device = prompt.device
    if not hasattr(model, "step"):
        generator = torch.Generator(device).manual_seed(0)

        def complete() -> None:
            with torch.inference_mode():
                model.complete(prompt, DECODED, generator=generator)

        peak = peak_bytes(complete, device)
        return {
            "tokens_per_second": DECODED / seconds_of(complete, device),
            "peak_bytes": peak,
            "state_bytes": None,
        }
    decoding = Decoding(model)

    def draw() -> None:
        decoding.draw(temperature=0)

    def read_and_draw() -> None:
        decoding.read(prompt)
        draw()
        draw()

    peak = peak_bytes(read_and_draw, device)
    seconds = [seconds_of(draw, device) for _ in range(DECODED)]
    return {
        "tokens_per_second": 1 / statistics.median(seconds),
        "peak_bytes": peak,
        "state_bytes": bytes_of(_tensors(decoding.state)),
    }


def peak_bytes(function: Callable[[], None], device: torch.device) -> int:
    """The most that PyTorch has allocated at a time while a function runs, above what it had before.

    On a CPU it is counted from the profiler's record of every allocation, so nothing else that the process or
    the machine does changes it.
    """
    if device.type != "cpu":
        memory = torch.get_device_module(device)
        memory.synchronize(device)
        memory.reset_peak_memory_stats(device)
        before = memory.memory_allocated(device)
        function()
        memory.synchronize(device)
        return memory.max_memory_allocated(device) - before
    # Otherwise Kineto, which records, says on standard error that it begins and ends.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.autograd.profiler.profile(use_cpu=True, profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def _tensors(state: Any) -> list[Tensor]:
    """The tensors of a state, among whatever else it has."""
    if isinstance(state, Tensor):
        return [state]
    if dataclasses.is_dataclass(state):
        state = [getattr(state, field.name) for field in dataclasses.fields(state)]
    return [tensor for part in state for tensor in _tensors(part)] if isinstance(state, list | tuple) else []


def seconds_of(function: Callable[[], None], device: torch.device) -> float:
    """How long a function takes, to the end of what it started on the device."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter() - start


def bytes_of(tensors: list[Tensor]) -> int:
    """What tensors take together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
