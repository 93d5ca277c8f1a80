"""What the gates run: every op, path, form and dtype, through the public functions.

Shapes are small (the interpreter runs most of them) and typical: widths and times divisible by 16, as in
models, and an odd one. To add an op, write a function that yields its cases and add it to :data:`OPS`.
"""

from .hebbian_cases import gravity_field_cases, hebbian_update_cases
from .memory_cases import hebbian_scan_cases, phase_hebbian_scan_cases
from .norm_cases import phase_norm_cases
from .product_cases import phase_linear_cases, phase_matmul_cases
from .scan_cases import (
    aperiodic_scan_cases,
    linoss_scan_cases,
    oscillatory_scan_cases,
    rotation_scan_cases,
)
from .selective_cases import selective_scan_cases

OPS = {
    "aperiodic_scan": aperiodic_scan_cases,
    "rotation_scan": rotation_scan_cases,
    "oscillatory_scan": oscillatory_scan_cases,
    "linoss_scan": linoss_scan_cases,
    "selective_scan": selective_scan_cases,
    "hebbian_scan": hebbian_scan_cases,
    "phase_hebbian_scan": phase_hebbian_scan_cases,
    "phase_linear": phase_linear_cases,
    "phase_matmul": phase_matmul_cases,
    "phase_norm": phase_norm_cases,
    "hebbian_update_": hebbian_update_cases,
    "gravity_field": gravity_field_cases,
}
"""An op's name → a function that yields its cases."""
