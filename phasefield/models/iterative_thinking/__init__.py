"""Iterative Thinking: one block applied again and again to a state it carries, until the text has settled."""

from .causal import IterativeThinking, IterativeThinkingConfig
from .masked import MaskedIterativeThinking, MaskedIterativeThinkingConfig

__all__ = [
    "IterativeThinking",
    "IterativeThinkingConfig",
    "MaskedIterativeThinking",
    "MaskedIterativeThinkingConfig",
]
