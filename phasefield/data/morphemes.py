"""Words into prefix, root and suffix."""

import csv
import gzip
import importlib.util
import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from . import english
from .orthography import join, stems

_SHORTEST_ROOT = 3
_LONGEST_AFFIX = 5
_MOST_AFFIXES = 4
_LOWEST_SCORE = 30
_MUCH_RARER = {"inflection": 300, "suffix": 10, "prefix": 1}
"""How many times as often as its stem a word may be seen and yet be made of it."""
_VOWELS = frozenset("aeiouy")
_DOUBLED = re.compile(r"([bdgmnprt])\1$")


class Split(NamedTuple):
    """A word taken apart; an affix may be several, with spaces between: ``non re``, ``ize ing``.

    Attributes:
        prefix: in the order they are written, empty for none.
        root: the word without them.
        suffix: in the order they are joined, each as :func:`~phasefield.data.orthography.join` takes it.
    """

    prefix: str
    root: str
    suffix: str

    def word(self) -> str:
        """What the three are written as together."""
        word = self.root
        for suffix in self.suffix.split():
            word = join(word, suffix)
        return self.prefix.replace(" ", "") + word

    def within(self, prefixes: Container[str], suffixes: Container[str]) -> "Split":
        """The same word, with innermost affixes given back to the root until the chains are among these.

        No affix at all is always allowed.
        """
        split = self
        while split.suffix and split.suffix not in suffixes:
            innermost, _, others = split.suffix.partition(" ")
            split = Split(split.prefix, join(split.root, innermost), others)
        while split.prefix and split.prefix not in prefixes:
            others, _, innermost = split.prefix.rpartition(" ")
            split = Split(others, innermost + split.root, split.suffix)
        # A longer stem may be written otherwise with the same suffix.
        return split if split.word() == self.word() else Split("", self.word(), "")


class Splitter:
    """Takes words apart, by the affixes it knows and the words that it has seen.

    An affix is cut off where what is left is a known word that is not much rarer than the whole, or, for an
    affix that shows itself, where what is left could be a word. This goes on while anything comes off. Joined
    again, a split is its word: a cut that :func:`~phasefield.data.orthography.join` cannot undo is not made.

    Args:
        words: known words in small letters, with how often each was seen.
        prefixes: known prefixes.
        suffixes: known suffixes, letters only.
    """

    def __init__(self, words: Mapping[str, int], prefixes: Iterable[str], suffixes: Iterable[str]) -> None:
        self.words = dict(words)
        self.prefixes = sorted(set(prefixes))
        self.suffixes = sorted(set(suffixes))
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for suffix in self.suffixes:
            self._by_end[suffix[-1]].append(suffix)
        self._by_start: dict[str, list[str]] = defaultdict(list)
        for prefix in self.prefixes:
            self._by_start[prefix[0]].append(prefix)

    @classmethod
    def train(cls, counts: Mapping[str, int], *, dictionary: Iterable[str] = ()) -> "Splitter":
        """Learn from the words of a corpus.

        Args:
            counts: words in small letters and how often they are there.
            dictionary: words known without having been seen, such as :func:`lemmas`.
        """
        words = dict.fromkeys(dictionary, 1) | dict(counts)
        learned_prefixes, learned_suffixes = learn_affixes(words)
        return cls(words, english.PREFIXES | learned_prefixes, english.SUFFIXES | learned_suffixes)

    def split(self, word: str) -> Split:
        """Prefix, root and suffix of a word in small letters."""
        root, prefixes, suffixes = word, [], []
        for _ in range(_MOST_AFFIXES):
            if len(root) <= _SHORTEST_ROOT or not (cut := self._best_cut(root, inflected=not suffixes)):
                break
            side, affix, root = cut
            if side == "prefix":
                prefixes.append(affix)
            else:
                suffixes.append(affix)
        split = Split(" ".join(prefixes), root, " ".join(reversed(suffixes)))
        return split if split.word() == word else Split("", word, "")

    def _best_cut(self, word: str, *, inflected: bool) -> tuple[str, str, str] | None:
        best, best_score = None, 0.0
        for suffix in self._by_end.get(word[-1], ()):
            if suffix == "s" and not inflected:
                continue
            for stem, signed in stems(word, suffix):
                score = self._stem_score(word, stem, suffix, "suffix")
                if score > 1 and signed != suffix:
                    score -= 0.5  # the regular writing, if it is as good
                if score > best_score:
                    best, best_score = ("suffix", signed, stem), score
        for prefix in self._by_start.get(word[0], ()):
            if word.startswith(prefix):
                stem = word[len(prefix) :]
                score = self._stem_score(word, stem, prefix, "prefix")
                if score > best_score:
                    best, best_score = ("prefix", prefix, stem), score
        return best

    def _stem_score(self, word: str, stem: str, affix: str, side: str) -> float:
        """How sure a cut is: above 0 it may be made."""
        if len(stem) < _SHORTEST_ROOT or _VOWELS.isdisjoint(stem) or not stem.isalpha():
            return 0.0
        seen = self.words.get(stem, 0)
        itself = self.words.get(word, 0)
        inflection = affix in english.INFLECTIONS
        free = affix in (english.FREE_SUFFIXES if side == "suffix" else english.FREE_PREFIXES)
        if seen:
            rarer = itself / seen
            if rarer > _MUCH_RARER["inflection" if inflection else side]:
                return 0.0
            sure = free or (affix == "y" and side == "suffix" and rarer <= 3)
            if len(stem) == _SHORTEST_ROOT and not sure:
                return 0.0
            return 10.0 + math.log1p(seen) / 4 + len(affix) / 2
        if itself and not inflection:  # a known word is not made of an unknown one
            return 0.0
        shape = side == "prefix" or _plausible(stem, affix)
        long = len(stem) > _SHORTEST_ROOT or affix == "s"
        return 1.0 + len(affix) if free and shape and long else 0.0


def _plausible(stem: str, affix: str) -> bool:
    """Whether an unknown stem has the shape that English leaves behind this suffix."""
    if affix == "s":
        hissing = stem.endswith(("sse", "she", "che", "xe", "zze", "ie")) or (
            stem.endswith("use") and not stem.endswith("ouse")
        )
        return not hissing and stem[-1] not in "iu" and (stem[-1] != "s" or stem.endswith(("ss", "us")))
    if affix in ("ed", "ing", "able", "ability"):
        silent_e = _wants_e(stem[:-1]) if stem.endswith("e") else not _wants_e(stem)
        return silent_e and stem[-1] not in "ia" and not _DOUBLED.search(stem)
    if affix in ("er", "est"):  # only an adjective's y: ``ier`` and ``iest``
        return stem.endswith("y") and len(stem) > 4
    if stem.endswith("i") or (affix == "ly" and stem.endswith(("ab", "ib"))):
        return False
    return not stem.endswith(("y", "a")) or affix in ("ness", "like", "less")


def _wants_e(stem: str) -> bool:
    """Whether a verb without its last e would look like this: ``iodinat``, ``weimariz``, ``trembl``."""
    if stem.endswith(("at", "iz", "is", "ys", "v", "c", "u", "dg", "ng", "rg", "as", "os", "us", "ns", "rs")):
        return not stem.endswith(("ing", "ong", "ang", "ung", "eat", "oat", "ous"))
    return len(stem) > 2 and stem[-1] == "l" and stem[-2] in "bcdfgkptz"


def learn_affixes(words: Mapping[str, int]) -> tuple[frozenset[str], frozenset[str]]:
    """Prefixes and suffixes of a corpus, by what they are found on.

    Score of an affix of 2 to 5 letters: distinct stems + 2 · stems that are words themselves + frequency /
    1000. Taken are those on at least 3 stems, most of which are words, with a score of at least 30.

    Returns:
        prefixes and suffixes, letters only.
    """
    found: tuple[set[str], set[str]] = (set(), set())
    tallies = (defaultdict(lambda: [0, 0, 0]), defaultdict(lambda: [0, 0, 0]))
    for word, count in words.items():
        for length in range(2, min(_LONGEST_AFFIX, len(word) - _SHORTEST_ROOT) + 1):
            halves = ((word[:length], word[length:]), (word[-length:], word[:-length]))
            for tally, (affix, stem) in zip(tallies, halves, strict=True):
                entry = tally[affix]
                entry[0] += 1
                entry[1] += len(stem) > _SHORTEST_ROOT and stem in words
                entry[2] += count
    for affixes, tally in zip(found, tallies, strict=True):
        for affix, (distinct, known, frequency) in tally.items():
            score = distinct + 2 * known + 0.001 * frequency
            if known >= 3 and known > 0.5 * distinct and score >= _LOWEST_SCORE:
                affixes.add(affix)
    return frozenset(found[0]), frozenset(found[1])


def lemmas() -> frozenset[str]:
    """The dictionary of the package ``lemminflect``, in small letters.

    Its table is read as text; its code, which loads pickles, is not run.

    Raises:
        RuntimeError: the package is not installed.
    """
    package = importlib.util.find_spec("lemminflect")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError(
            "the dictionary is read from the package lemminflect, which is not installed: pip install "
            "lemminflect, or train the tokenizer from a corpus alone."
        )
    table = Path(package.submodule_search_locations[0]) / "resources" / "lemma_lu.csv.gz"
    with gzip.open(table, "rt", encoding="utf-8", newline="") as lines:
        words = (word for row in csv.reader(lines) for word in row[2].lower().split("/"))
        return frozenset(word for word in words if word.isalpha())
