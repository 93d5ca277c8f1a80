"""The tokens of ``MorphologicalTokenizer``, flat and structured, and what they write."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .orthography import join
from .words import Case, from_bytes, to_bytes, unfinished

_BYTES = 256
_MARKERS = 2 * len(Case)


class Vocabulary:
    """Flat ids, in this order: 256 bytes, 6 markers, roots, pieces, prefixes, suffixes.

    Bytes, markers, roots and pieces are *bases*. A row of the structured view is ``(prefix, base, suffix)``:
    the base's flat id (``bases`` stands for none, where an affix has no base), and 0 for no affix or 1 + the
    affix's number. A word is one row, with a row for its marker before it if it has one.

    Args:
        roots: words in small letters.
        pieces: strings.
        prefixes, suffixes: chains of affixes, as in :class:`~phasefield.data.morphemes.Split`.

    Raises:
        ValueError: a list holds something twice, or something empty.
    """

    def __init__(
        self, roots: Sequence[str], pieces: Sequence[str], prefixes: Sequence[str], suffixes: Sequence[str]
    ) -> None:
        self.roots, self.pieces = list(roots), list(pieces)
        self.prefixes, self.suffixes = list(prefixes), list(suffixes)
        for name, strings in self.to_json().items():
            if len(set(strings)) != len(strings) or not all(isinstance(s, str) and s for s in strings):
                raise ValueError(f"{name} must be distinct strings, none of them empty.")
        self.first_root = _BYTES + _MARKERS
        self.first_piece = self.first_root + len(self.roots)
        self.bases = self.first_piece + len(self.pieces)
        self.first_suffix = self.bases + len(self.prefixes)
        self.root_ids = {root: self.first_root + i for i, root in enumerate(self.roots)}
        self.prefix_ids = {prefix: self.bases + i for i, prefix in enumerate(self.prefixes)}
        self.suffix_ids = {suffix: self.first_suffix + i for i, suffix in enumerate(self.suffixes)}
        self._piece_bytes = [to_bytes(piece) for piece in self.pieces]

    def __len__(self) -> int:
        return self.first_suffix + len(self.suffixes)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Bases, prefixes and suffixes, as :class:`~phasefield.layers.MorphologicalEmbedding` takes them."""
        return self.bases, len(self.prefixes), len(self.suffixes)

    def to_json(self) -> dict[str, list[str]]:
        """The arguments this was made of."""
        return {
            "roots": self.roots,
            "pieces": self.pieces,
            "prefixes": self.prefixes,
            "suffixes": self.suffixes,
        }

    def marker(self, case: Case, *, space: bool) -> int:
        """The id that begins a word in this case, with a space before it or without."""
        return _BYTES + len(Case) * space + case

    @cached_property
    def names(self) -> list[str]:
        """Each token as a string of its own, to look at."""
        markers = [f"<{'space ' * space}{case.name.lower()}>" for space in (False, True) for case in Case]
        return [
            *(f"<0x{byte:02X}>" for byte in range(_BYTES)),
            *markers,
            *self.roots,
            *(f"##{piece}" for piece in self.pieces),
            *(f"{prefix}-" for prefix in self.prefixes),
            *(f"-{suffix}" for suffix in self.suffixes),
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids.

        A marker, a prefix or a root begins a word; a root ends it but for a suffix. What is spelled belongs
        to the word for as long as it is letters. A suffix without a word is its letters.

        Raises:
            IndexError: an id outside the vocabulary.
        """
        writer = _Writer()
        for token in ids:
            self._write(writer, token)
        return writer.finish()

    def open_tokens(self, ids: Sequence[int]) -> int:
        """How many ids at the end, if others follow, may yet be written otherwise."""
        writer, begin = _Writer(), 0
        for i, token in enumerate(ids):
            began = writer.begun
            self._write(writer, token)
            if not writer.open:
                begin = i + 1
            elif writer.begun != began:
                begin = i
        return len(ids) - begin if writer.open else unfinished(writer.raw)

    def structure(self, ids: Tensor) -> Tensor:
        """Flat ids ``[tokens]`` as rows ``[rows, 3]``, int64."""
        is_prefix = (ids >= self.bases) & (ids < self.first_suffix)
        is_suffix = ids >= self.first_suffix
        is_base = ids < self.bases
        before = torch.cat([is_base.new_zeros(1), is_prefix])[: len(ids)]
        behind = torch.cat([is_base.new_zeros(1), is_base])[: len(ids)]
        begins = is_prefix | (is_base & ~before) | (is_suffix & ~behind)
        row = begins.cumsum(0) - 1
        rows = ids.new_zeros(int(begins.sum()), 3)
        rows[:, 1] = self.bases
        rows[row[is_prefix], 0] = ids[is_prefix] - self.bases + 1
        rows[row[is_base], 1] = ids[is_base]
        rows[row[is_suffix], 2] = ids[is_suffix] - self.first_suffix + 1
        return rows

    def flatten(self, rows: Tensor) -> Tensor:
        """Rows ``[rows, 3]`` as flat ids ``[tokens]``."""
        offsets = rows.new_tensor([self.bases - 1, 0, self.first_suffix - 1])
        there = torch.stack([rows[:, 0] > 0, rows[:, 1] < self.bases, rows[:, 2] > 0], dim=1)
        return (rows + offsets)[there]

    def _write(self, writer: "_Writer", token: int) -> None:
        if not 0 <= token < len(self):
            raise IndexError(f"token id is {token}; the vocabulary has {len(self)} ids from 0.")
        if token < _BYTES:
            writer.spell(bytes([token]))
        elif token < self.first_root:
            space, case = divmod(token - _BYTES, len(Case))
            writer.begin(Case(case), space=bool(space))
        elif token < self.first_piece:
            writer.root(self.roots[token - self.first_root])
        elif token < self.bases:
            writer.spell(self._piece_bytes[token - self.first_piece])
        elif token < self.first_suffix:
            writer.prefix(self.prefixes[token - self.bases])
        else:
            writer.suffix(self.suffixes[token - self.first_suffix])


class _Writer:
    """Writes tokens one by one; a word is written when it can no longer change.

    Bytes on two sides of a word's beginning or end never make one character.
    """

    def __init__(self) -> None:
        self.written: list[str] = []
        self.raw = b""
        self.open = False
        self.begun = 0
        self._reset()

    def begin(self, case: Case = Case.LOWER, *, space: bool = True) -> None:
        self.close()
        self.open, self.begun = True, self.begun + 1
        self._case, self._space = case, space

    def prefix(self, chain: str) -> None:
        if not self.open or self._prefix or self._stem:
            self.begin()
        self._prefix = chain.replace(" ", "")

    def root(self, root: str) -> None:
        if not self.open or self._stem:
            self.begin()
        self._stem, self._whole = to_bytes(root), True

    def spell(self, piece: bytes) -> None:
        if self.open and (self._whole or not _goes_on(piece)):
            self.close()
        if self.open:
            self._stem += piece
        else:
            self.raw += piece

    def suffix(self, chain: str) -> None:
        if not self.open:
            self.begin(space=False)
        stem = from_bytes(self._stem)
        for suffix in chain.split():
            stem = join(stem, suffix)
        self._stem = to_bytes(stem)
        self.close()

    def close(self) -> None:
        if self.raw:
            self.written.append(from_bytes(self.raw))
            self.raw = b""
        if self.open:
            word = self._case.write(self._prefix + from_bytes(self._stem))
            self.written.append(" " + word if self._space else word)
        self.open = False
        self._reset()

    def finish(self) -> str:
        self.close()
        return "".join(self.written)

    def _reset(self) -> None:
        self._case, self._space, self._whole = Case.LOWER, True, False
        self._prefix, self._stem = "", b""


def _goes_on(piece: bytes) -> bool:
    """Whether a spelled word can go on with this: small Latin letters, and what is inside of one."""
    return 97 <= piece[0] <= 122 or piece[0] == 0xC3 or 0x80 <= piece[0] < 0xC0
