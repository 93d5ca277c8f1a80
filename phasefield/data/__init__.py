"""Texts, tokenizers, and batches."""

from .batches import ContiguousStreams, RandomWindows, evaluation_batches
from .characters import CharTokenizer
from .corpora import DATASETS, Corpus, load_corpus
from .morphology import MorphologicalTokenizer
from .pieces import StreamedCorpus, stream_corpus
from .streaming import TextStream
from .subwords import SubwordTokenizer
from .tokenizer import Tokenizer, load_tokenizer, make_tokenizer

__all__ = [
    "DATASETS",
    "CharTokenizer",
    "ContiguousStreams",
    "Corpus",
    "MorphologicalTokenizer",
    "RandomWindows",
    "StreamedCorpus",
    "SubwordTokenizer",
    "TextStream",
    "Tokenizer",
    "evaluation_batches",
    "load_corpus",
    "load_tokenizer",
    "make_tokenizer",
    "stream_corpus",
]
