"""How aperiodic_scan's kernels are laid out: chosen by the compile report where nothing else is said."""

from ..rows import Config, TimeLoop

# Few lanes: a lane a thread and a warp a program, so that every scheduler of a device gets one.
TIME_LOOP = TimeLoop({80: (Config(block=32, steps=8, num_warps=1), Config(block=128, steps=8, num_warps=2))})
