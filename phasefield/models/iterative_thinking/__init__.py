"""Iterative Thinking: one block applied again and again to a state it carries, until the text has settled."""

from .causal import IterativeThinking
from .core import IterativeThinkingConfig
from .masked import MaskedIterativeThinking, MaskedIterativeThinkingConfig

__all__ = [
    "IterativeThinking",
    "IterativeThinkingConfig",
    "MaskedIterativeThinking",
    "MaskedIterativeThinkingConfig",
]
