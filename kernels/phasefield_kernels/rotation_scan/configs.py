"""How rotation_scan's kernels are laid out: chosen by the compile report where nothing else is said."""

from ..rows import Config, TimeLoop

# A lane is two floats, so a lane a thread already loads 8 bytes at a time in float32. Eight steps in flight
# with two lanes a thread spill registers on sm_86. Backward, three times as much is loaded a step, and half
# as many steps are in flight: eight spill on sm_80.
TIME_LOOP = TimeLoop({80: (Config(block=32, steps=8, num_warps=1), Config(block=64, steps=4, num_warps=2))})
