"""Fused kernels for phase, oscillator and state-space models: the public functions.

Every op has a reference that defines it, a fast PyTorch form and fused Triton kernels, many have native code
for CPUs; :mod:`phasefield_kernels.backend` says which one runs.
"""

from .aperiodic_scan import aperiodic_scan, aperiodic_scan_step, aperiodic_scan_step_
from .backend import use_backend
from .gravity_field import gravity_field
from .hebbian_scan import hebbian_scan, hebbian_scan_step, hebbian_scan_step_
from .hebbian_update import hebbian_update_
from .linoss_scan import linoss_scan, linoss_scan_step, linoss_scan_step_
from .oscillatory_scan import oscillatory_scan, oscillatory_scan_step, oscillatory_scan_step_
from .phase_hebbian_scan import phase_hebbian_scan, phase_hebbian_scan_step, phase_hebbian_scan_step_
from .phase_linear import phase_linear
from .phase_matmul import phase_matmul
from .phase_norm import phase_norm
from .phases import GOLDEN_ANGLE, golden_phases, phase_from_radians, radians_from_phase
from .rotation_scan import rotation_scan, rotation_scan_step, rotation_scan_step_
from .selective_scan import selective_scan, selective_scan_step, selective_scan_step_

__all__ = [
    "GOLDEN_ANGLE",
    "aperiodic_scan",
    "aperiodic_scan_step",
    "aperiodic_scan_step_",
    "golden_phases",
    "gravity_field",
    "hebbian_scan",
    "hebbian_scan_step",
    "hebbian_scan_step_",
    "hebbian_update_",
    "linoss_scan",
    "linoss_scan_step",
    "linoss_scan_step_",
    "oscillatory_scan",
    "oscillatory_scan_step",
    "oscillatory_scan_step_",
    "phase_from_radians",
    "phase_hebbian_scan",
    "phase_hebbian_scan_step",
    "phase_hebbian_scan_step_",
    "phase_linear",
    "phase_matmul",
    "phase_norm",
    "radians_from_phase",
    "rotation_scan",
    "rotation_scan_step",
    "rotation_scan_step_",
    "selective_scan",
    "selective_scan_step",
    "selective_scan_step_",
    "use_backend",
]
