"""Peak memory of a call: what its tensors hold at once, counted by torch's allocators."""

import os
from collections.abc import Callable

import torch
from torch._C._profiler import RecordScope
from torch.autograd import ProfilerActivity, _disable_profiler, _enable_profiler, _prepare_profiler

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
    # Ops are not recorded, as torch.profiler would: a scan's million steps would take gigabytes themselves.
    config = torch.autograd.profiler.profile(profile_memory=True).config()
    activities = {ProfilerActivity.CPU}
    _prepare_profiler(config, activities)
    _enable_profiler(config, activities, {RecordScope.USER_SCOPE})
    try:
        result = call()
    finally:
        recorded = _disable_profiler()
    del result
    # Sizes of allocations, negative for what is freed.
    events = [event for event in recorded.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
