"""Tokens to text as they come, where a token may end in the middle of a character or of a word."""

from .tokenizer import Tokenizer

_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of tokens that come one by one; joined, the pieces are the text of all of them.

    What a decoder gives for bytes that are no character is held back while it stands at the end, where the
    next token may complete one. Text is decoded behind the piece before it, because some decoders drop the
    space at the beginning of a text. A tokenizer whose tokens change those before them (``happy`` + ``ness``)
    says by a method ``open_tokens(ids)`` how many at the end may yet change; these wait.

    Args:
        tokenizer: decodes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._open_tokens = getattr(tokenizer, "open_tokens", lambda ids: 0)
        self._ids: list[int] = []
        self._shown = 0  # of these, tokens whose text is given
        self._given = 0  # characters of the text of all of them

    def push(self, token: int) -> str:
        """The characters that this token completes; none if it only begins one."""
        self._ids.append(token)
        end = len(self._ids) - self._open_tokens(self._ids)
        if end <= self._shown:
            return ""
        text = self._tokenizer.decode(self._ids[:end])
        certain = text.rstrip(_UNREADABLE)
        piece = certain[self._given :]
        if certain == text:
            self._ids = self._ids[self._shown :]
            self._shown = end - self._shown
            self._given = len(self._tokenizer.decode(self._ids[: self._shown]))
        else:
            self._given += len(piece)
        return piece

    def finish(self) -> str:
        """What is left of a character or a word that was begun and not completed; � for its bytes."""
        piece = self._tokenizer.decode(self._ids)[self._given :]
        self._ids, self._shown, self._given = [], 0, 0
        return piece
