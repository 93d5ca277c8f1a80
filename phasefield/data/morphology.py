"""Prefixes, roots and suffixes as tokens, and bytes for whatever is none of these."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .morphemes import Split, Splitter, lemmas
from .spelling import Spelling, learn_pieces
from .vocabulary import Vocabulary
from .words import Case, case_of, parts, word_in

FILE = "morphology.json"
_CACHED = 2**19


class MorphologicalTokenizer:
    """Words as prefix, root and suffix, in one vocabulary; every text comes back exactly.

    A word is ``[marker] [prefix] root [suffix]``. The marker says its case and whether a space stands before
    it; the usual word, in small letters behind a space, has none. A root outside the vocabulary is spelled in
    pieces and bytes between its affixes; numbers, signs, spaces and other scripts are pieces and bytes too.
    Nothing that does not decode to what it was made from is ever used: it is spelled instead.

    Beside the flat ids, :meth:`structure` gives the same tokens as rows (prefix, base, suffix), for
    :class:`~phasefield.layers.MorphologicalEmbedding`.

    Args:
        splitter: takes words apart.
        vocabulary: the tokens.
    """

    def __init__(self, splitter: Splitter, vocabulary: Vocabulary) -> None:
        self.splitter = splitter
        self.vocabulary = vocabulary
        self._spelling = Spelling(vocabulary.pieces, vocabulary.first_piece)
        self._cache = _Cache(self._encode_part)

    @classmethod
    def train(
        cls,
        text: str,
        *,
        roots: int = 16_000,
        prefixes: int = 512,
        suffixes: int = 2_048,
        dictionary: Iterable[str] | None = (),
    ) -> "MorphologicalTokenizer":
        """Learn words, affixes and pieces from a corpus. The sizes are at most, and the origin's.

        Args:
            text: the corpus.
            roots: roots and pieces together; 70 % of them are roots.
            prefixes, suffixes: chains of affixes (``ize ing`` is one), each on at least 3 roots.
            dictionary: words known without having been seen; None for those of ``lemminflect``.

        Raises:
            ValueError: a size below 0, or an empty text.
            RuntimeError: dictionary is None and the package ``lemminflect`` is not installed.
        """
        if not text:
            raise ValueError("text is empty; a tokenizer needs words to learn from.")
        if min(roots, prefixes, suffixes) < 0:
            raise ValueError(
                f"roots, prefixes, suffixes are {roots}, {prefixes}, {suffixes}; none may be below 0."
            )
        words: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for part, count in Counter(chain.from_iterable(parts(text))).items():
            cased = case_of(word) if (word := word_in(part)) else None
            if cased:
                words[cased[1]] += count
            else:
                others[part] += count
        splitter = Splitter.train(words, dictionary=lemmas() if dictionary is None else dictionary)
        splits = {word: splitter.split(word) for word in words}
        prefix_tokens = _affixes(splits, 0, prefixes)
        suffix_tokens = _affixes(splits, 2, suffixes)
        chains = (frozenset(prefix_tokens), frozenset(suffix_tokens))
        counts: Counter[str] = Counter()
        for word, count in words.items():
            counts[splits[word].within(*chains).root] += count
        ranked = sorted((root for root in counts if counts[root] > 1), key=lambda root: (-counts[root], root))
        root_tokens = ranked[: int(0.7 * roots)]
        spelled = {root: counts[root] for root in counts.keys() - set(root_tokens)}
        pieces = learn_pieces(others, spelled, roots - int(0.7 * roots))
        return cls(splitter, Vocabulary(root_tokens, pieces, prefix_tokens, suffix_tokens))

    @property
    def vocab_size(self) -> int:
        """How many ids there are: bytes, markers, roots, pieces, prefixes and suffixes."""
        return len(self.vocabulary)

    def split(self, word: str) -> Split:
        """A word's prefix, root and suffix, whether they are tokens or not; in small letters."""
        return self.splitter.split(word.lower())

    def encode(self, text: str) -> Tensor:
        """Token ids, int64 ``[tokens]``; any string can be encoded."""
        encoded = [
            np.fromiter(chain.from_iterable(map(self._cache.__getitem__, some)), dtype=np.int64)
            for some in parts(text)
        ]
        return torch.from_numpy(np.concatenate(encoded)) if encoded else torch.empty(0, dtype=torch.int64)

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of any token ids; � stands for bytes that are no whole character."""
        return self.vocabulary.decode(ids.tolist() if isinstance(ids, Tensor) else ids)

    def open_tokens(self, ids: Sequence[int]) -> int:
        """How many tokens at the end may yet be written otherwise: a root may get a suffix."""
        return self.vocabulary.open_tokens(ids)

    def structure(self, ids: Tensor) -> Tensor:
        """Token ids ``[tokens]`` as rows (prefix, base, suffix), int64 ``[rows, 3]``: see ``Vocabulary``."""
        return self.vocabulary.structure(ids)

    def flatten(self, rows: Tensor) -> Tensor:
        """Rows ``[rows, 3]`` as token ids; undoes :meth:`structure`."""
        return self.vocabulary.flatten(rows)

    def to_json(self) -> str:
        """All of it, as ``morphology.json`` holds it."""
        saved = {
            "words": self.splitter.words,
            "prefixes": self.splitter.prefixes,
            "suffixes": self.splitter.suffixes,
            "vocabulary": self.vocabulary.to_json(),
        }
        return json.dumps(saved)

    def save(self, folder: Path | str) -> None:
        """Write ``morphology.json`` into a folder, and the file that tells transformers its class."""
        config = {"tokenizer_class": "MorphologicalTokenizerForTransformers"}
        (Path(folder) / FILE).write_text(self.to_json(), encoding="utf-8")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> "MorphologicalTokenizer":
        """The tokenizer that :meth:`save` wrote into a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged.
        """
        path = Path(folder) / FILE
        try:
            saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            splitter = Splitter(saved["words"], saved["prefixes"], saved["suffixes"])
            return cls(splitter, Vocabulary(**saved["vocabulary"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error

    def _encode_part(self, part: str) -> list[int]:
        word = word_in(part)
        cased = case_of(word) if word else None
        if cased:
            for ids in self._spellings(*cased, space=part[0] == " "):
                if self.decode(ids) == part:
                    return ids
        return self._spelling.ids(part)

    def _spellings(self, case: Case, word: str, *, space: bool) -> Iterable[list[int]]:
        """Ways to write a word, the best first."""
        vocabulary = self.vocabulary
        usual = space and case is Case.LOWER
        marker = [vocabulary.marker(case, space=space)]
        split = self.splitter.split(word).within(vocabulary.prefix_ids, vocabulary.suffix_ids)
        prefix = [vocabulary.prefix_ids[split.prefix]] if split.prefix else []
        suffix = [vocabulary.suffix_ids[split.suffix]] if split.suffix else []
        for root, before, behind in ((split.root, prefix, suffix), (word, [], [])):
            if root in vocabulary.root_ids:
                yield [*([] if usual else marker), *before, vocabulary.root_ids[root], *behind]
        if case is Case.UPPER:  # what is spelled behind it would be written large with it
            return
        if prefix or suffix:
            yield [*([] if usual and prefix else marker), *prefix, *self._spelling.ids(split.root), *suffix]
        if space or case is Case.TITLE:
            yield [*marker, *self._spelling.ids(word)]


class _Cache(dict[str, list[int]]):
    """The ids of parts of text, made when first asked for; emptied when full."""

    def __init__(self, make: Callable[[str], list[int]]) -> None:
        self._make = make

    def __missing__(self, part: str) -> list[int]:
        if len(self) >= _CACHED:
            self.clear()
        ids = self[part] = self._make(part)
        return ids


def _affixes(splits: dict[str, Split], which: int, most: int) -> list[str]:
    """The chains of affixes on most roots, of those on 3 at least; ``which`` is 0 or 2."""
    roots: defaultdict[str, set[str]] = defaultdict(set)
    for split in splits.values():
        if split[which]:
            roots[split[which]].add(split.root)
    frequent = [affix for affix in roots if len(roots[affix]) >= 3]
    return sorted(frequent, key=lambda affix: (-len(roots[affix]), affix))[:most]
