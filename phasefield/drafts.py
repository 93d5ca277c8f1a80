"""Drawing how a text settles that is drafted as a whole and then changed in places."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text
from torch import Tensor

from .data import Tokenizer

_UNDECIDED, _LINE_BREAK = "░", "↵"


def draw_drafts(drafts: Iterable[Tensor], tokenizer: Tokenizer, console: Console) -> Tensor | None:
    """Print each draft on a line, what changed since the one before in bold, and give the last one back.

    Args:
        drafts: ``[1, n]`` int64 each; ids outside the vocabulary are places not decided yet.
        tokenizer: of the model.
        console: where to print.
    """
    before: list[int] = []
    draft = None
    for number, draft in enumerate(drafts, 1):
        ids = draft[0].tolist()
        line = Text(f"{number:>3} ", style="dim")
        for style, text in _runs(ids, before, tokenizer):
            line.append(text, style=style)
        console.print(line, soft_wrap=True)
        before = ids
    return draft


def _runs(ids: list[int], before: list[int], tokenizer: Tokenizer) -> Iterable[tuple[str, str]]:
    """``(style, text)`` of neighbouring tokens that are alike, so that their characters come out whole."""
    known = range(tokenizer.vocab_size)
    styles = [
        "dim" if token not in known else "not dim" if before[place : place + 1] == [token] else "not dim bold"
        for place, token in enumerate(ids)
    ]
    begin = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or styles[end] != styles[begin]:
            run = ids[begin:end]
            decided = styles[begin] != "dim"
            text = tokenizer.decode(run) if decided else _UNDECIDED * len(run)
            yield styles[begin], text.replace("\n", _LINE_BREAK)
            begin = end
