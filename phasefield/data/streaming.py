"""Tokens to text as they come, where a token may end in the middle of a character or of a word."""

from .tokenizer import Tokenizer

_LONGEST = 4
"""Tokens that a character takes at most: UTF-8 has four bytes at most, and a token has one at least."""


class TextStream:
    """The text of tokens that come one by one; joined, the pieces are the text of all of them.

    A piece is decoded behind the one before it, because some decoders drop the space at the beginning of a
    text. A tokenizer whose tokens change those before them (``happy`` + ``ness``) says by a method
    ``open_tokens(ids)`` how many at the end may yet change; these wait.

    Args:
        tokenizer: decodes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._open_tokens = getattr(tokenizer, "open_tokens", lambda ids: 0)
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """The characters that this token completes; none if it only begins one."""
        self._ids.append(token)
        end = len(self._ids) - self._open_tokens(self._ids)
        if end <= self._shown:
            return ""
        piece = self._piece(end)
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and end - self._shown < _LONGEST:
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = end - self._shown
        return piece

    def finish(self) -> str:
        """What is left of a character or a word that was begun and not completed; � for its bytes."""
        piece = self._piece(len(self._ids)) if len(self._ids) > self._shown else ""
        self._ids, self._shown = [], 0
        return piece

    def _piece(self, end: int) -> str:
        before = self._tokenizer.decode(self._ids[: self._shown])
        return self._tokenizer.decode(self._ids[:end])[len(before) :]
