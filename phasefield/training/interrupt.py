"""Ctrl-C and SIGTERM ask a run to stop after the step it is in."""

import signal
from types import FrameType, TracebackType


class Interrupt:
    """While open, the first SIGINT or SIGTERM is only noted; a second one ends the process at once.

    Attributes:
        signal: the number of the signal noted, None before.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for again in self._before:
            signal.signal(again, signal.SIG_DFL)
