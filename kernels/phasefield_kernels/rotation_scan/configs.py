"""How rotation_scan's kernels are laid out: chosen by the compile report where nothing else is said."""

from typing import NamedTuple

from ..rows import Config, TimeLoop

# A lane is two floats, so a lane a thread already loads 8 bytes at a time in float32. Eight steps in flight
# with two lanes a thread spill registers on sm_86. Backward, three times as much is loaded a step, and half
# as many steps are in flight: eight spill on sm_80.
TIME_LOOP = TimeLoop({80: (Config(block=32, steps=8, num_warps=1), Config(block=64, steps=4, num_warps=2))})


class Spans(NamedTuple):
    """A program takes ``spans`` stretches of ``steps`` time steps side by side, of ``block`` lanes."""

    spans: int
    block: int
    steps: int
    num_warps: int


# A warp a span. The carry over the spans costs a thread some 250 instructions, spread over its steps; half as
# many of these are in flight backward, as above. Gated, the backward takes up to 184 registers, so that a
# multiprocessor holds one program of eight warps; chunks would bring 6 to 12 warps to one of an RTX 3090. The
# program's 28 KB of loads in flight are four times what that card delivers to a multiprocessor in 600 ns, a
# latency. Held to 128 registers it spills.
SIDE_BY_SIDE = {80: Spans(spans=8, block=32, steps=8, num_warps=8)}
