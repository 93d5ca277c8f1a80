"""Diffusion-LM: text as the end of a denoising process over its embeddings."""

from .model import DiffusionLM, DiffusionLMConfig
from .schedule import NoiseSchedule

__all__ = ["DiffusionLM", "DiffusionLMConfig", "NoiseSchedule"]
