"""The views of the tokens that come with the model; importing this registers them."""

from .context import ContextBank
from .mood import EmotionBank, LanguageBank
from .semantic import SemanticBank
from .surface import MorphologyBank, OrthographyBank

__all__ = [
    "ContextBank",
    "EmotionBank",
    "LanguageBank",
    "MorphologyBank",
    "OrthographyBank",
    "SemanticBank",
]
