"""The cards that times are predicted for: published rates, not measured ones."""

from typing import NamedTuple


class Card(NamedTuple):
    """A card.

    Attributes:
        target: what kernels are compiled for, a name in :data:`benchmarks.targets.TARGETS`.
        multiprocessors: SMs.
        clock: boost clock in GHz, at which the makers state their rates.
        bandwidth: of its memory in GB/s.
        half: TFLOP/s of tensor cores on bfloat16 or float16, dense, added up in float32.
        tf32: the same on tf32.
    """

    target: str
    multiprocessors: int
    clock: float
    bandwidth: float
    half: float
    tf32: float


CARDS = {
    "RTX 3070": Card("sm_86", 46, 1.725, 448, 40.6, 20.3),
    "RTX 3090": Card("sm_86", 82, 1.695, 936, 71.0, 35.6),
    "RTX 4090": Card("sm_89", 128, 2.52, 1008, 165.2, 82.6),
    "RTX 5090": Card("sm_120", 170, 2.407, 1792, 209.5, 104.8),
    "A100": Card("sm_80", 108, 1.41, 2039, 312.0, 156.0),
    "H100": Card("sm_90", 132, 1.83, 3350, 989.4, 494.7),
}
"""Sources: NVIDIA's architecture whitepapers: GA102 (RTX 3070, 3090), Ada (4090), RTX Blackwell (5090), A100
(SXM, 80 GB: its data sheet) and H100 (SXM5; the clock is the one its stated tensor rate implies)."""

SCHEDULERS = 4
"""Of a multiprocessor, each issuing one instruction of one warp a clock."""

SPECIAL_FUNCTIONS = 16
"""Results a clock and multiprocessor: CUDA C++ Programming Guide, throughput of native arithmetic
instructions (reciprocal, exponential, sine), the same from compute capability 8.0 to 12.0."""

LAUNCH_MICROSECONDS = 4.0
"""From one kernel's end to the next one's work when launches queue up: an assumption, a few microseconds on
every card; what Python takes before a first launch is not in it."""
