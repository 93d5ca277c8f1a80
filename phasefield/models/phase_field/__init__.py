"""Quantum Phase-Field LLM: complex streams that interfere, turn and remember, every part to be exchanged.

A part is a class registered under a name (``@register_bank("name", description=…)`` and its siblings), which
a config names: see :mod:`.interfaces` for what each kind has to offer.
"""

from . import backbones, banks, couplers, memories, objectives, original, samplers
from .config import SIZES, BankConfig, PartConfig, PhaseFieldConfig
from .interfaces import Backbone, Bank, Coupler, Memory, Objective, Outcome, Sampler
from .model import PhaseField, PhaseFieldState, parameter_counts
from .registry import (
    register_backbone,
    register_bank,
    register_coupler,
    register_memory,
    register_objective,
    register_sampler,
)

__all__ = [
    "SIZES",
    "Backbone",
    "Bank",
    "BankConfig",
    "Coupler",
    "Memory",
    "Objective",
    "Outcome",
    "PartConfig",
    "PhaseField",
    "PhaseFieldConfig",
    "PhaseFieldState",
    "Sampler",
    "backbones",
    "banks",
    "couplers",
    "memories",
    "objectives",
    "original",
    "parameter_counts",
    "register_backbone",
    "register_bank",
    "register_coupler",
    "register_memory",
    "register_objective",
    "register_sampler",
    "samplers",
]
