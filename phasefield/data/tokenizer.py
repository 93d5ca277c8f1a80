"""What a tokenizer is, and which one a name or a folder means."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from . import morphology
from .characters import FILE, CharTokenizer
from .morphology import MorphologicalTokenizer
from .subwords import SubwordTokenizer


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        ...

    def encode(self, text: str) -> Tensor:
        """Token ids, int64 ``[tokens]``.

        Raises:
            ValueError: the text cannot be written in these tokens.
        """
        ...

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of token ids."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer into a folder; :func:`load_tokenizer` reads it."""
        ...


def make_tokenizer(name: str, text: str, validation: str = "") -> Tokenizer:
    """The tokenizer of a training run.

    Args:
        name: ``char``, the symbols of both texts; ``morphological``, learned from ``text``; ``gpt2``; or a
            folder that :func:`load_tokenizer` or :meth:`SubwordTokenizer.read` knows.
        text: what will be trained on.
        validation: what else will be encoded. Only ``char`` looks at it: the others can write any text.

    Raises:
        ValueError: an unknown name, or a folder without a tokenizer.
        RuntimeError: GPT-2's files are not installed.
    """
    if name == "char":
        return CharTokenizer.from_text(text + validation)
    if name == "morphological":
        return MorphologicalTokenizer.train(text)
    if name == "gpt2":
        return SubwordTokenizer.gpt2()
    if not Path(name).is_dir():
        raise ValueError(
            f"tokenizer is {name!r}; allowed are char, gpt2, morphological, or a folder that holds a "
            "tokenizer."
        )
    ours = any((Path(name) / file).is_file() for file in (morphology.FILE, FILE))
    return load_tokenizer(name) if ours else SubwordTokenizer.read(name)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer that a checkpoint was saved with.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged.
    """
    if (Path(folder) / morphology.FILE).is_file():
        return MorphologicalTokenizer.load(folder)
    path = Path(folder) / FILE
    try:
        splitter = json.loads(path.read_text(encoding="utf-8"))["pre_tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    by_character = isinstance(splitter, dict) and splitter.get("pattern") == {"Regex": r"[\s\S]"}
    return CharTokenizer.load(folder) if by_character else SubwordTokenizer.read(folder)
