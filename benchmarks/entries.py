"""The tests of a bench file: one for every race and competitor of its operations."""

from collections.abc import Callable

import pytest

from .clock import REPLAY
from .machine import this_device
from .operation import Operation, races
from .race import competitors


def entries(*operations: Operation) -> Callable:
    """Parametrize a test function with ``race`` and ``competitor``, those of one race side by side."""
    parameters = [
        pytest.param(
            race, competitor, id=f"{race}-{competitor.name}", marks=() if race.quick else pytest.mark.full
        )
        for operation in operations
        for race in races(operation)
        for competitor in competitors(race, this_device())
    ]

    def decorate(function: Callable) -> Callable:
        timed = pytest.mark.benchmark(timer=REPLAY)(function)
        return pytest.mark.parametrize(("race", "competitor"), parameters)(timed)

    return decorate
