"""What a run shows while it goes: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FRAMES = 0.2
_SMOOTHING = 0.9  # of the speed, over the last ten or so reports


class ProgressReport:
    """Steps done, loss, tokens per second and time left, the time in :meth:`paused` blocks not counted.

    Args:
        done: steps done before.
        steps: steps in all.
        tokens_per_step: of all processes.
        console: where to print; None says nothing (processes other than the main one).
    """

    def __init__(self, done: int, steps: int, tokens_per_step: int, console: Console | None) -> None:
        self._done, self._steps, self._tokens_per_step = done, steps, tokens_per_step
        self._console = console
        self._seconds_per_step, self._reports = 0.0, 0
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            # Drawn by update() only: a drawing thread would compete with the model for the CPU.
            self._bar = Progress(*columns, console=console, auto_refresh=False)
            self._task = self._bar.add_task("starting", total=steps, completed=done)

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        self._measured = self._shown = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float) -> None:
        """Report that ``step`` steps are done, the last of them with this mean loss."""
        now = time.monotonic()
        seconds = (now - self._measured) / max(step - self._done, 1)
        self._reports += 1
        # The first report has compilation and first touches of memory in it: it does not linger.
        smoothing = _SMOOTHING if self._reports > 2 else 0.0
        self._seconds_per_step = smoothing * self._seconds_per_step + (1 - smoothing) * seconds
        self._done, self._measured = step, now
        pause = SECONDS_BETWEEN_LINES if self._bar is None else _SECONDS_BETWEEN_FRAMES
        if self._console is None or (now - self._shown < pause and step < self._steps):
            return
        self._shown = now
        speed = self._tokens_per_step / self._seconds_per_step
        left = _clock(self._seconds_per_step * (self._steps - step))
        line = f"step {step:,}/{self._steps:,}  loss {loss:.4f}  {speed:,.0f} tokens/s  {left} left"
        if self._bar is None:
            self.note(line)
        else:
            self._bar.update(self._task, completed=step, description=line, refresh=True)

    def note(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._console is not None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens in the block (evaluation, saving) out of the speed."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._measured += time.monotonic() - start


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
