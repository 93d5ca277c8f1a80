"""The phases of a layer in a stack: what the aperiodic cell and its linear sibling share."""

import math

from torch import Tensor

from phasefield_kernels import golden_phases


def layer_phases(count: int, phase_scaling: float, layer: int) -> Tensor:
    """Integer phases of ``j · golden angle / phase_scaling^layer`` for j = 0 … count − 1, int64 ``[count]``.

    Raises:
        ValueError: a phase_scaling that is not above 0 and finite, or whose power no float64 holds.
    """
    if not 0 < phase_scaling < math.inf:
        raise ValueError(f"phase_scaling is {phase_scaling}; it must be above 0 and finite.")
    if abs(layer * math.log(phase_scaling)) > 700:  # float64 ends at e^±709
        raise ValueError(
            f"phase_scaling is {phase_scaling}; layer {layer} divides its angle by the power {layer} of it, "
            "which must be within float64's range."
        )
    return golden_phases(count, phase_scaling**layer)
