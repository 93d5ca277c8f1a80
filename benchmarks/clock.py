"""Time of short functions: competitors in turns, medians and quartiles; CPU and GPU."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Protocol

import numpy as np
import torch

Call = Callable[[], object]

SAMPLE = 2e-3
"""Seconds that a sample lasts at least: shorter calls are repeated within it."""

FEWEST, FEW, MOST = 3, 5, 50
"""Samples of a competitor: from five on the budget ends them, from three on three times the budget."""


class Clock(Protocol):
    """Measures calls."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Of ``repeats`` calls together."""
        ...


class CpuClock:
    """Wall-clock time."""

    def seconds(self, call: Call, repeats: int) -> float:
        """Of ``repeats`` calls together."""
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - begin


class CudaClock:
    """Time on the device, between two events; the L2 cache is overwritten before.

    Args:
        cuda: ``torch.cuda``; tests put another in its place.
        flush: overwrites the L2 cache; by default zeroes a buffer of 256 MB, more than any card has.
    """

    def __init__(self, cuda: ModuleType = torch.cuda, flush: Call | None = None) -> None:
        self.cuda = cuda
        self.flush = flush or torch.empty(256 << 20, dtype=torch.int8, device="cuda").zero_

    def seconds(self, call: Call, repeats: int) -> float:
        """Of ``repeats`` calls together."""
        begin, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        self.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third."""
    first, median, third = np.quantile(samples, (0.25, 0.5, 0.75))
    return float(first), float(median), float(third)


def in_turns(calls: Mapping[str, Call], clock: Clock, budget: float) -> dict[str, list[float]]:
    """Time competitors in turns, A B C A B C, so that what slows the machine slows them alike.

    Each is called twice before, to warm up; Python's garbage collector waits until the end.

    Args:
        calls: by competitor.
        clock: of the device.
        budget: seconds for all together; they get five rounds at least, or three long ones.
    """
    repeats = {}
    for name, call in calls.items():
        clock.seconds(call, 1)
        repeats[name] = max(1, round(SAMPLE / max(clock.seconds(call, 1), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        for done in range(MOST):
            spent = time.perf_counter() - begin
            if (done >= FEW and spent > budget) or (done >= FEWEST and spent > 3 * budget):
                break
            for name, call in calls.items():
                samples[name].append(clock.seconds(call, repeats[name]) / repeats[name])
    finally:
        if collecting:
            gc.enable()
    return samples


class Replay:
    """pytest-benchmark's timer: stands still but for what it is told has passed.

    pytest-benchmark times one function after the other. Here all of a race are timed in turns beforehand, and
    then each one's samples are played to it, for its tables, statistics and files.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def player(self, samples: Sequence[float]) -> Call:
        """A function whose every call lasts as long as the next sample."""
        rest = iter(samples)

        def play() -> None:
            self.now += next(rest)

        return play


REPLAY = Replay()
