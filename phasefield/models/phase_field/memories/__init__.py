"""The memories that come with the model; importing this registers them."""

from .episodic import EpisodicMemory
from .matrix import MatrixMemory
from .slots import SlotMemory

__all__ = ["EpisodicMemory", "MatrixMemory", "SlotMemory"]
