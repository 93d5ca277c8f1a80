"""How selective_scan's kernels are laid out: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

import triton

from ..rows import TimeLoop


class Config(NamedTuple):
    """A layout.

    Attributes:
        numbers: of the lanes' states that a thread holds.
        steps: time steps loaded before the first is computed.
        held: time steps whose states the backward holds at a time.
        num_warps: a program.
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
        return max(
            1, min(self.numbers * 32 * self.num_warps // states, triton.next_power_of_2(max(1, channels)))
        )


SEGMENT = 256
"""Steps from one state that the forward keeps to the next: with N = 16, a thirtieth of its traffic."""

LANES_AT_A_TIME = 16_384
"""Of one launch of the backward: bounds its scratch, the states before every ``held`` steps of a segment."""

TIME_LOOP = TimeLoop({80: (Config(4, 4, 4, 4), Config(4, 8, 4, 8))}, lanes_wanted=8_192, shortest_chunk=1_024)
"""Chunks are long because three states of a chunk are written in one launch and read in another."""
