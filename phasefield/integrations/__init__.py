"""Working with other packages: their checkpoints, and their models on these kernels."""

from .mamba_checkpoints import load_mamba, save_mamba
from .mamba_patch import MambaPatch, patch_mamba

__all__ = ["MambaPatch", "load_mamba", "patch_mamba", "save_mamba"]
