"""Other packages' functions, by their own names and layouts, on these kernels."""

from .stand_in import stand_in_for_mamba_ssm

__all__ = ["stand_in_for_mamba_ssm"]
