"""The morphological tokenizer as transformers knows tokenizers."""

from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizer

from ..data import MorphologicalTokenizer
from ..data.morphology import FILE


class MorphologicalTokenizerForTransformers(PreTrainedTokenizer):
    """A :class:`~phasefield.data.MorphologicalTokenizer` with transformers' interface.

    ``from_pretrained(folder)`` reads what :meth:`MorphologicalTokenizer.save` wrote, and ``save_pretrained``
    writes what :meth:`MorphologicalTokenizer.load` reads. Ids are the same, no special tokens are added
    unless given (``pad_token="<pad>"`` takes the next free id), and text comes back exactly.

    Args:
        vocab_file: path of a ``morphology.json``.
        others: as every tokenizer of transformers takes them.
    """

    vocab_files_names: ClassVar = {"vocab_file": FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **others: Any) -> None:
        self.tokenizer = MorphologicalTokenizer.load(Path(vocab_file).parent)
        self._names = self.tokenizer.vocabulary.names
        self._numbers = {name: i for i, name in enumerate(self._names)}
        others.setdefault("clean_up_tokenization_spaces", False)
        super().__init__(vocab_file=vocab_file, **others)

    @property
    def vocab_size(self) -> int:
        """Ids without added tokens."""
        return self.tokenizer.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Each token's name and id, added ones included."""
        return self._numbers | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self._names[i] for i in self.tokenizer.encode(text).tolist()]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._numbers.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens by name; an added token is its own text."""
        texts: list[str] = []
        ids: list[int] = []
        for token in [*tokens, None]:
            if token in self._numbers:
                ids.append(self._numbers[token])
                continue
            texts.append(self.tokenizer.decode(ids))
            texts.append(token or "")
            ids = []
        return "".join(texts)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write ``morphology.json``."""
        path = Path(save_directory) / (f"{filename_prefix}-{FILE}" if filename_prefix else FILE)
        path.write_text(self.tokenizer.to_json(), encoding="utf-8")
        return (str(path),)
