"""Which part of a model the time goes to."""

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_DEPTH = 2
_METHODS = ("forward", "read", "learn_", "suffixes")
"""What a part may be called by: the field's parts are read and learn."""


class PartTimes:
    """Seconds that each part took itself, without the parts inside it.

    Args:
        device: that the parts run on.
        clock: which seconds.

    Attributes:
        seconds: by part; ``rest`` is what the model does between its parts.
        calls: how often each was called.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._device, self._clock = device, clock
        self._inside: list[float] = []

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of a block as a part's; the same name appears in a trace of torch's profiler."""
        self._inside.append(0.0)
        begin = self.now()
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            took = self.now() - begin
            self.seconds[name] += took - self._inside.pop()
            self.calls[name] += 1
            if self._inside:
                self._inside[-1] += took

    def counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, its time counted as a part's."""

        @functools.wraps(call)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.timed(name):
                return call(*arguments, **options)

        return counted

    def now(self) -> float:
        """What the clock says when the device has done all it was told so far."""
        if self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize(self._device)
        return self._clock()


@contextmanager
def parts_timed(model: nn.Module, times: PartTimes) -> Iterator[None]:
    """While open, each call of a part of the model is counted.

    A part is a submodule at most two names deep, repeated ones under one name (``blocks.*.mixer``); what is
    deeper counts as its part's. The classes stay as they are: methods of the instances are replaced, and put
    back.
    """
    replaced = []
    for name, module in model.named_modules():
        folded = re.sub(r"\b\d+\b", "*", name)
        if not name or len(folded.replace(".*", "").split(".")) > _DEPTH or isinstance(module, nn.ModuleList):
            continue
        for method in _METHODS:
            if hasattr(module, method) and (method != "forward" or _has_forward(module)):
                setattr(module, method, times.counted(getattr(module, method), folded))
                replaced.append((module, method))
    try:
        yield
    finally:
        for module, method in replaced:
            delattr(module, method)


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward
