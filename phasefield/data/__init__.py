"""Texts, characters as tokens, and batches."""

from .batches import ContiguousStreams, RandomWindows, evaluation_batches
from .corpora import DATASETS, Corpus, load_corpus
from .tokenizer import CharTokenizer

__all__ = [
    "DATASETS",
    "CharTokenizer",
    "ContiguousStreams",
    "Corpus",
    "RandomWindows",
    "evaluation_batches",
    "load_corpus",
]
