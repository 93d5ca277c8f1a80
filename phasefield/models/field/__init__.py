"""The field model: memories that learn without back-propagation."""

from .config import FieldConfig
from .model import Field
from .state import FieldState, Reading

__all__ = ["Field", "FieldConfig", "FieldState", "Reading"]
