"""A text cut into words and what stands between them; case; and bytes that are no character."""

import re
from collections.abc import Iterator
from enum import IntEnum

_UPPER = "A-ZÀ-ÖØ-Þ"
_LOWER = "a-zß-öø-ÿ"
_WORD = rf"[{_UPPER}]?[{_LOWER}]{{1,40}}|[{_UPPER}]{{1,40}}(?![{_LOWER}])"
_PARTS = re.compile(
    rf" ?(?:{_WORD})"  # words; camelCase is two
    r"| ?[0-9]{1,4}"
    r"| ?[^\W\d_]{1,16}"  # letters that are not Latin
    r"| ?(?:[^\s\w]|_){1,16}"
    r"|\s{1,64}(?!\S)|\s{1,64}"  # spaces, but for the one that goes with a word
    r"|[\s\S]"
)
_IS_WORD = re.compile(rf" ?({_WORD})")
_CUT = re.compile(r"(?<=\S)\n(?=\S)")
_PIECE = 2**20
_ESCAPED = re.compile(r"[\udc80-\udcff]+")
_SURROGATE = re.compile(rb"(\xed[\xa0-\xbf][\x80-\xbf])")


class Case(IntEnum):
    """How a word of small letters is written."""

    LOWER = 0
    TITLE = 1
    UPPER = 2

    def write(self, word: str) -> str:
        """The word in this case; Title's small letters stay as they are."""
        if self is Case.LOWER:
            return word
        return word.upper() if self is Case.UPPER else word[:1].upper() + word[1:]


def parts(text: str) -> Iterator[list[str]]:
    """The parts of a text, in lists of about a million characters; joined, they are the text.

    A part is a word, with the space before it if there is one; a number; other letters; signs; or spaces.
    """
    begin = 0
    while begin < len(text):
        # A single line break ends whatever part stands before it, so a cut there changes no part.
        cut = _CUT.search(text, begin + _PIECE)
        end = cut.start() if cut else len(text)
        yield _PARTS.findall(text, begin, end)
        begin = end


def word_in(part: str) -> str | None:
    """The word that a part is, without its space; None if it is another kind of part."""
    match = _IS_WORD.fullmatch(part)
    return match[1] if match else None


def case_of(word: str) -> tuple[Case, str] | None:
    """The case and the small letters that are written as this word; None if no case writes it."""
    small = word.lower()
    return next(((case, small) for case in Case if case.write(small) == word), None)


def to_bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate takes three bytes, as other code points of its size."""
    return text.encode("utf-8", "surrogatepass")


def from_bytes(data: bytes) -> str:
    """The inverse of :func:`to_bytes`; � stands for bytes that are no whole character."""
    return _ESCAPED.sub(_unescape, data.decode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[str]) -> str:
    data = match[0].encode("utf-8", "surrogateescape")
    return "".join(
        piece.decode("utf-8", "surrogatepass" if i % 2 else "replace")
        for i, piece in enumerate(_SURROGATE.split(data))
    )


def unfinished(data: bytes) -> int:
    """How many bytes at the end begin a character that is not complete."""
    for back in range(1, min(4, len(data) + 1)):
        lead = data[-back]
        if lead >= 0xC2:
            length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return back if back < length and lead < 0xF5 else 0
        if lead < 0x80:
            return 0
    return 0
