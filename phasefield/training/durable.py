"""Writing that survives a kill or a power cut at any moment."""

import hashlib
import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until a file's contents are on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries (new names, renames) are on the disk."""
    if os.name == "nt":  # Windows cannot open a folder, and journals its entries itself.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file atomically: readers, also after a crash, see the old text or the new."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    sync_file(new)
    os.replace(new, path)
    sync_folder(path.parent)


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
