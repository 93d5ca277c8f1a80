"""Characters as tokens."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = "tokenizer.json"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def write_for_transformers(tokenizer: str, folder: Path) -> None:
    """Write a serialised tokenizer, and the small file that tells transformers its class."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / FILE).write_text(tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


class CharTokenizer:
    """One token a character (Unicode code point); token i is the i-th symbol.

    If the replacement character � is a symbol, it stands for every character that is none.

    Saved in the format of Hugging Face's ``tokenizers``, so ``AutoTokenizer.from_pretrained`` reads it too.

    Args:
        symbols: the vocabulary, distinct characters.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        if (
            not self.symbols
            or len(set(self.symbols)) != len(self.symbols)
            or {len(s) for s in self.symbols} != {1}
        ):
            raise ValueError(f"symbols are {self.symbols!r:.80}; they must be distinct single characters.")
        points = [ord(symbol) for symbol in self.symbols]
        self._ids = np.full(max(points) + 2, -1, dtype=np.int64)
        self._ids[points] = np.arange(len(points))
        self._unknown = self.symbols.index(_REPLACEMENT) if _REPLACEMENT in self.symbols else None

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The vocabulary of a text: its characters, sorted.

        Give it training and validation text together, as the usual character benchmarks do (Tiny
        Shakespeare's 65 symbols): a symbol that training never shows then costs its honest price in
        evaluation instead of stopping the run.
        """
        if not text:
            raise ValueError("text is empty; a vocabulary needs at least one character.")
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        """Number of symbols."""
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Token ids, int64 ``[len(text)]``.

        Raises:
            ValueError: characters outside a vocabulary without �; the message names the first and where it
                stands.
        """
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if self._unknown is not None:
            ids[ids < 0] = self._unknown
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            at = int(unknown[0])
            others = "" if len(unknown) == 1 else f" (and {len(unknown) - 1:,} more)"
            raise ValueError(
                f"the text has {text[at]!r} at position {at:,}{others}, which is not in the vocabulary of "
                f"{self.vocab_size} symbols: {''.join(self.symbols)!r:.200}"
            )
        return torch.from_numpy(ids)

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of token ids."""
        values = ids.tolist() if isinstance(ids, Tensor) else ids
        return "".join(self.symbols[i] for i in values)

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.json`` into a folder, as transformers reads it."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        vocabulary = {symbol: i for i, symbol in enumerate(self.symbols)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=self.symbols[self._unknown or 0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        write_for_transformers(tokenizer.to_str(), Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> "CharTokenizer":
        """The tokenizer that :meth:`save` wrote into a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, or is another kind of tokenizer.
        """
        path = Path(folder) / FILE
        try:
            vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
            return cls(sorted(vocabulary, key=vocabulary.__getitem__))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or is not a character tokenizer: {error}") from error
