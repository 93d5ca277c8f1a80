"""The origin's formulas (Quantum Phase-Field LLM, version 4), for comparison; importing this registers them.

A part registered as ``original_<type>`` stands in for ``<type>`` under ``variant="original"``. Sequences run
through the same scans as ours, so that what differs is the function and not how long it takes.
"""

from .backbone import OriginalBackbone
from .banks import (
    OriginalContextBank,
    OriginalEmotionBank,
    OriginalLanguageBank,
    OriginalSemanticBank,
)
from .coupler import OriginalCoupler, OriginalCoupling
from .memory import OriginalSlotMemory

__all__ = [
    "OriginalBackbone",
    "OriginalContextBank",
    "OriginalCoupler",
    "OriginalCoupling",
    "OriginalEmotionBank",
    "OriginalLanguageBank",
    "OriginalSemanticBank",
    "OriginalSlotMemory",
]
