"""Plans, and results that are measured once, kept as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UserError, reported
from ..training.durable import replace_text


def kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds; if there is none, what a function measures, which the file then holds.

    Raises:
        UserError: the file is damaged or cannot be written.
    """
    if path.is_file():
        return read_kept(path)
    result = measure()
    with reported(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, as_json(result))
    return result


def read_kept(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; delete it to have it made again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; delete it to have it made again.")
    return content


def save_plan(folder: Path, plan: Any) -> None:
    """Make a folder, and keep in its ``plan.json`` what will be done there, a dataclass.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "plan.json", as_json(asdict(plan)))
    except OSError as error:
        raise UserError(f"--save-dir: {folder} cannot be written: {error.strerror or error}.") from error


def as_json(content: dict[str, Any]) -> str:
    """JSON that a person can read."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
