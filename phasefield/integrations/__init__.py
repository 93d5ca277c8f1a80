"""Working with other packages: their checkpoints, and their models on these kernels."""

from .mamba_checkpoints import load_mamba, save_mamba

__all__ = ["load_mamba", "save_mamba"]
