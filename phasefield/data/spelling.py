"""Strings written in frequent pieces, and in bytes where no piece fits."""

from collections import Counter
from collections.abc import Mapping, Sequence

from .words import to_bytes

_SHORTEST, _LONGEST = 2, 7
_LONGEST_WHOLE = 16


class Spelling:
    """The longest piece that fits, from left to right; a byte where none does.

    Args:
        pieces: strings of two characters and more; piece i has the id ``first + i``, and byte b the id b.
        first: the first piece's id.
    """

    def __init__(self, pieces: Sequence[str], first: int) -> None:
        self._ids = {piece: first + i for i, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces), default=0)

    def ids(self, text: str) -> list[int]:
        """The ids of a short text."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), 1, -1):
                if (piece := self._ids.get(text[at : at + length])) is not None:
                    ids.append(piece)
                    at += length
                    break
            else:
                ids.extend(to_bytes(text[at]))
                at += 1
        return ids


def learn_pieces(wholes: Mapping[str, int], words: Mapping[str, int], count: int) -> list[str]:
    """The pieces that save most tokens over bytes: by frequency · (length − 1).

    Args:
        wholes: strings to take whole or not at all, with their frequencies.
        words: words that will be spelled; their runs of 2 to 7 letters are candidates.
        count: pieces wanted.
    """
    found: Counter[str] = Counter()
    for whole, frequency in wholes.items():
        if 1 < len(whole) <= _LONGEST_WHOLE:
            found[whole] += frequency
    for word, frequency in words.items():
        for length in range(_SHORTEST, min(_LONGEST, len(word)) + 1):
            for at in range(len(word) - length + 1):
                found[word[at : at + length]] += frequency
    saved = ((frequency * (len(piece) - 1), piece) for piece, frequency in found.items() if frequency > 1)
    return [piece for _, piece in sorted(saved, key=lambda entry: (-entry[0], entry[1]))[:count]]
