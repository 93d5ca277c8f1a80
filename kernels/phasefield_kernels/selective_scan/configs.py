"""How selective_scan's kernels are laid out: chosen by the compile report, not measured on a device."""

from typing import NamedTuple

from ..device import architecture, for_architecture
from ..rows import TimeLoop


class Config(NamedTuple):
    """A layout.

    Attributes:
        numbers: of a lane's state that a thread holds, or of several lanes' if theirs are few.
        steps: time steps loaded before the first is computed.
        held: time steps whose states the backward holds at a time.
        num_warps: a program; each has lanes of its own.
    """

    numbers: int
    steps: int
    held: int
    num_warps: int

    def block(self, states: int, channels: int) -> int:
        """Lanes a program: a power of two, not far above the channels there are.

        Args:
            states: floats of a lane's state, a power of two.
            channels: that share B and C.
        """
        return max(1, min(self.numbers * 32 * self.num_warps // states, _power_of_two(channels)))


SEGMENT = 256
"""Steps from one state that the forward keeps to the next; of N numbers a channel, 16 are 3 % of the traffic."""

LANES_AT_A_TIME = 32_768
"""Of one launch of the backward: bounds the memory for the states that it recomputes, a segment's a lane."""

TIME_LOOP = TimeLoop({80: (Config(4, 4, 8, 4), Config(4, 8, 8, 8))})


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
