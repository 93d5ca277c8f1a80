"""Peak memory of a call: what its tensors hold at once, counted by torch's allocators."""

import os
from collections.abc import Callable

import torch

# Above the highest level there is: otherwise the profiler writes two lines a call to the terminal.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most bytes of tensors alive at once during a call, its result included, inputs not.

    Counted where tensors are allocated, so that it neither depends on what the process keeps back nor on the
    machine. What libraries allocate for themselves (packed matrices) is not seen.

    Args:
        call: what to run.
        device: ``"cpu"`` or ``"cuda"``.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        result = call()
    del result
    # Sizes of allocations, negative for what is freed.
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
