"""Where the time of a run's training steps goes: to the model, and to what surrounds it."""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from ..data import ContiguousStreams, RandomWindows
from ..training import RunFlags, hebbian, loop
from ..training.average import WeightAverage
from ..training.device import pick_device
from ..training.flags import known_model
from ..training.passes import Passes
from ..training.progress import ProgressReport
from .parts import PartTimes

STEPS = 2 * loop.REPORT_EVERY
WARM_UPS = 5
"""Steps before those that count."""

_PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "backward": ((Accelerator, "backward"),),
    "clipping": ((torch.nn.utils, "clip_grad_norm_"),),
    "optimizer": ((torch.optim.AdamW, "step"), (torch.optim.AdamW, "zero_grad")),
    "averaging": ((WeightAverage, "update"),),
    "reports": ((loop, "_report"), (ProgressReport, "update")),
    "looks": tuple((torch.Tensor, name) for name in ("item", "tolist", "__bool__", "__int__", "__float__")),
}
"""What the loops call, by part; what they call of the model and the text is the model's class's."""
_BATCHES = (RandomWindows, ContiguousStreams, Passes)  # A stream is read in chunks, which are Passes.
_OF_MODEL = {"loss": "forward", "learn_": "learning", "forget_": "forgetting"}


@dataclass(frozen=True)
class StepParts:
    """What a step of training takes, the mean of some.

    Attributes:
        seconds: of the processor, its threads added up; of the clock on a GPU.
        parts: those seconds by part, each without the parts inside it. ``looks`` is Python reading a tensor's
            value, ``rest`` what the loop does between its parts; timing a part takes 7 µs.
        looks: such readings. Each would wait for a GPU; the checks of values that ops make on a CPU alone are
            among them there.
    """

    seconds: float
    parts: dict[str, float]
    looks: float


def step_parts(flags: RunFlags, steps: int = STEPS) -> StepParts:
    """Begin a run as ``phasefield train`` does at a terminal, progress bar and all, and time its steps.

    Args:
        flags: of the run; it goes into a temporary folder.
        steps: that are timed, after five to warm up: multiples of ten, which is how often the loop reports.

    Raises:
        ValueError: another number, or one that reaches the first validation, checkpoint or end of the run.
        UserError: the run cannot start.
    """
    run = flags.run
    most = min(run.steps, run.save_every, run.eval_every or run.steps) - WARM_UPS - 1
    if not 1 <= steps <= most or steps % loop.REPORT_EVERY:
        raise ValueError(
            f"steps is {steps}; it must be a multiple of {loop.REPORT_EVERY} and at most {most}, so that "
            "reports count and nothing is validated or saved."
        )
    device, entry = pick_device(run.device), known_model(flags.model)
    times = PartTimes(device, time.process_time if device.type == "cpu" else time.perf_counter)
    first, last = (number * run.gradient_accumulation for number in (WARM_UPS, WARM_UPS + steps))
    train = hebbian.train_hebbian if entry.local else loop.train
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with (
        TemporaryDirectory() as folder,
        _loop_timed(entry.model_class, times, first, last),
        suppress(_EnoughError),
    ):
        train(replace(flags, run=replace(run, save_dir=f"{folder}/run")), terminal)
    parts = {name: seconds / steps for name, seconds in times.seconds.items()}
    return StepParts(sum(parts.values()), parts, times.calls["looks"] / steps)


class _EnoughError(Exception):
    """Not a failure: the steps that are timed are over."""


@contextmanager
def _loop_timed(model_class: type[Any], times: PartTimes, first: int, last: int) -> Iterator[None]:
    """While open, what the loops call is counted, from batch ``first`` on; before batch ``last`` they end."""
    asked, begin = 0, 0.0

    def batch_asked() -> None:
        nonlocal asked, begin
        if asked == last:
            times.seconds["rest"] = times.now() - begin - sum(times.seconds.values())
            raise _EnoughError
        if asked == first:
            times.seconds.clear()
            times.calls.clear()
            begin = times.now()
        asked += 1

    def batches_counted(batch: Any) -> Any:
        counted = times.counted(batch, "data")

        def counted_when_asked(*arguments: Any) -> Any:
            batch_asked()
            return counted(*arguments)

        return counted_when_asked

    torch.optim.AdamW([torch.zeros(1)])  # The first one wraps the class's step in hooks: time these too.
    with ExitStack() as stack:
        for kind in _BATCHES:
            stack.enter_context(_replaced(kind, "batch", batches_counted(kind.batch)))
        of_model = {
            part: ((model_class, name),) for name, part in _OF_MODEL.items() if hasattr(model_class, name)
        }
        for part, places in (_PARTS | of_model).items():
            for owner, name in places:
                stack.enter_context(_replaced(owner, name, times.counted(getattr(owner, name), part)))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced while open, in a class that may only inherit it."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
