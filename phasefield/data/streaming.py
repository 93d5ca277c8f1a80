"""Tokens to text as they come, where a token may end in the middle of a character."""

from .tokenizer import Tokenizer

_LONGEST = 4
"""Tokens that a character takes at most: UTF-8 has four bytes at most, and a token has one at least."""


class TextStream:
    """The text of tokens that come one by one; joined, the pieces are the text of all of them.

    A piece is decoded behind the one before it, because some decoders drop the space at the beginning of a
    text.

    Args:
        tokenizer: decodes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """The characters that this token completes; none if it only begins one."""
        self._ids.append(token)
        piece = self._piece()
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and len(self._ids) - self._shown < _LONGEST:
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return piece

    def finish(self) -> str:
        """What is left of a character that was begun and not completed; � for its bytes."""
        piece = self._piece() if len(self._ids) > self._shown else ""
        self._ids, self._shown = [], 0
        return piece

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._shown])
        return self._tokenizer.decode(self._ids)[len(before) :]
