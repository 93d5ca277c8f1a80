"""Texts too long for memory, read piece by piece from any place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .corpora import BYTE_ORDER_MARK, HUB_TEXTS, Corpus, load_from_hub, not_utf8, plain_name, unreachable

SAMPLE = 2_000_000
"""Characters from the beginning of each part that are held in memory."""
_PIECE = 2**18


class Pieces(Protocol):
    """A text in pieces."""

    def read(self, position: Any = None) -> Iterator[tuple[Any, str]]:
        """The pieces from a position on, each with its own position.

        Args:
            position: one that came with a piece, or None for the beginning; plain JSON.

        Raises:
            ValueError: bytes that are not UTF-8.
            OSError: a file that cannot be read.
            RuntimeError: the hub cannot be reached, with what to do.
        """
        ...


class FilePieces:
    r"""A UTF-8 file, or a part of it, in pieces of at most 256 KiB that end with a line where they can.

    Args:
        path: of the file.
        begin: byte of the first character.
        end: byte behind the last one.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "lines.txt")
    >>> _ = path.write_text("a line\n" * 100_000)
    >>> pieces = list(FilePieces(path, 0, path.stat().st_size).read())
    >>> [position for position, _ in pieces], pieces[1][1][:7], sum(len(text) for _, text in pieces)
    ([0, 262143, 524286], 'a line\n', 700000)
    """

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self.path, self.begin, self.end = path, begin, end

    def read(self, position: int | None = None) -> Iterator[tuple[int, str]]:
        """See :class:`Pieces`; a position is that of a byte."""
        at = self.begin if position is None else position
        with self.path.open("rb") as file:
            while at < self.end:
                file.seek(at)
                text = self._text(file.read(min(_PIECE, self.end - at)), at)
                yield at, text
                at += len(text.encode())

    def _text(self, data: bytes, at: int) -> str:
        more = at + len(data) < self.end
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            cut_through = more and error.end == len(data) and error.reason == "unexpected end of data"
            if not cut_through or error.start == 0:
                raise not_utf8(self.path, at, error) from error
            text = data[: error.start].decode("utf-8")
        # Behind a line break that something visible follows: others may be the middle of a token.
        line = text.rfind("\n", 0, len(text.rstrip())) + 1 if more else 0
        return text[:line] if line else text


class HubPieces:
    """A part of a dataset on the Hugging Face hub, streamed, in pieces of whole rows.

    What stands between two rows also follows the last.

    Args:
        name: one of :data:`~phasefield.data.corpora.HUB_TEXTS`.
        split: the part.
    """

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split

    def read(self, position: dict[str, Any] | None = None) -> Iterator[tuple[dict[str, Any] | None, str]]:
        """See :class:`Pieces`; a position is the state that ``datasets`` gives of its stream."""
        source = HUB_TEXTS[self.name]
        rows = load_from_hub(self.name, source, split=self.split, streaming=True)
        if position is not None:
            rows.load_state_dict(position)
        piece, size = [], 0
        try:
            for row in rows:
                piece.append(row["text"] + source.between)
                size += len(piece[-1])
                if size >= _PIECE:
                    yield position, "".join(piece)
                    position, piece, size = rows.state_dict(), [], 0
        except Exception as error:  # as when it is opened
            raise unreachable(self.name, source, error, streaming=True) from error
        if piece:
            yield position, "".join(piece)


@dataclass(frozen=True)
class StreamedCorpus:
    """A text in two parts, of which only the beginnings are in memory.

    Attributes:
        sample: at most the first 2,000,000 characters of each part.
        training: all that is trained on.
        whole_validation: whether the sample holds the whole validation part.
    """

    sample: Corpus
    training: Pieces
    whole_validation: bool


def stream_corpus(dataset: str, data_path: str | Path | None = None) -> StreamedCorpus:
    """A corpus by name or a text file, as :func:`~phasefield.data.load_corpus`, but read in pieces.

    Args:
        dataset: one of :data:`~phasefield.data.corpora.HUB_TEXTS`, in any spelling, or a text file.
        data_path: a UTF-8 text file, which takes the dataset's place.

    Returns:
        The text; of a file, the last 10 % of its bytes are the validation part.

    Raises:
        ValueError: a name that cannot be streamed; a file that is not UTF-8 or too short.
        OSError: a file that cannot be read.
        RuntimeError: the hub cannot be reached, with what to do.
    """
    name = plain_name(dataset)
    if data_path is None and name in HUB_TEXTS:
        return _sampled(name, HubPieces(name, "train"), HubPieces(name, "validation"))
    path = Path(dataset if data_path is None else data_path)
    if data_path is None and not path.is_file():
        raise ValueError(
            f"dataset is {dataset!r}, which is no stream; streams are {', '.join(HUB_TEXTS)} and files (by "
            "--data-path)."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
        cut = begin + (size - begin) * 9 // 10
        file.seek(cut)
        while (byte := file.read(1)) and byte[0] & 0xC0 == 0x80:  # inside a character
            cut += 1
    return _sampled(path.name, FilePieces(path, begin, cut), FilePieces(path, cut, size))


def _sampled(name: str, training: Pieces, validation: Pieces) -> StreamedCorpus:
    (head, _), (tail, whole) = _beginning(training), _beginning(validation)
    if not head or not tail:
        raise ValueError(f"{name} is too short to be divided into a training and a validation part.")
    return StreamedCorpus(Corpus(name, head, tail), training, whole)


def _beginning(pieces: Pieces) -> tuple[str, bool]:
    """The first characters of a text, and whether they are all."""
    texts, size = [], 0
    for _, text in pieces.read():
        texts.append(text)
        size += len(text)
        if size > SAMPLE:
            return "".join(texts)[:SAMPLE], False
    return "".join(texts), True
