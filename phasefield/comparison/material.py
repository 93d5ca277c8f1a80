"""The text that is compared on."""

from dataclasses import dataclass

from torch import Tensor

from ..data import Corpus, Tokenizer, load_corpus, make_tokenizer
from ..errors import reported
from .quality import prompts_and_continuations


@dataclass(frozen=True)
class Material:
    """A corpus, its tokenizer, and its tokens.

    Attributes:
        corpus: as text.
        tokenizer: of all models.
        train: int64 ``[N]``.
        prompts: pieces of the validation split that are continued, int64 ``[B, T]``.
        continuations: what follows them there, int64 ``[B, T]``.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    train: Tensor
    prompts: Tensor
    continuations: Tensor


def load_material(dataset: str, data_path: str | None, tokenizer_name: str) -> Material:
    """Load a corpus as in training, and cut the prompts.

    Raises:
        UserError: the text or the tokenizer cannot be had, or the validation split is too short.
    """
    with reported(ValueError, OSError, RuntimeError):
        corpus = load_corpus(dataset, data_path)
        tokenizer = make_tokenizer(tokenizer_name, corpus.train, corpus.validation)
    with reported(ValueError):
        prompts, continuations = prompts_and_continuations(tokenizer.encode(corpus.validation))
        return Material(corpus, tokenizer, tokenizer.encode(corpus.train), prompts, continuations)
