"""One checkpoint: a folder of plain files (JSON and safetensors, never pickle), sealed by a manifest.

=======================  ================================================================
``config.json``          the model's name and config, and the version that wrote it
``model.safetensors``    the weights, averaged over the last steps
``tokenizer.json`` …     the tokenizer, in Hugging Face's format
``trainer.json``         where the run stands and its flags
``trainer.safetensors``  weights as trained, optimizer, random states, carried state, history
``manifest.json``        the SHA-256 of each of them
=======================  ================================================================
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from .. import __version__
from ..data import Tokenizer, load_tokenizer
from ..errors import UserError
from ..models import MODELS
from ..models.phase_field.registry import is_loaded
from .durable import sha256, sync_file, sync_folder

MANIFEST = "manifest.json"
MODEL_TYPE = "phasefield"
"""Of ``config.json``, by which transformers knows whose it is; ``model`` says which model."""


def write_model(folder: Path, name: str, model: nn.Module, tokenizer: Tokenizer) -> None:
    """Write what inference needs: config, weights, tokenizer."""
    config = {
        "model_type": MODEL_TYPE,
        "phasefield_version": __version__,
        "model": name,
        "model_config": asdict(model.config),
    }
    write_json(folder / "config.json", config)
    with _full_disk_is_an_os_error("model.safetensors"):
        save_model(model, str(folder / "model.safetensors"), {"format": "pt"})  # tied weights once
    tokenizer.save(folder)


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Tokenizer]:
    """The model of a checkpoint folder, in evaluation mode, and its tokenizer.

    Raises:
        UserError: the folder is no checkpoint, is damaged, needs another version of this package, or code
            that it names itself (:func:`check_code`).
    """
    verify(folder)
    saved = read_json(folder / "config.json")
    version = saved.get("phasefield_version", "unknown")
    name, config = saved.get("model"), saved.get("model_config")
    if config is None:  # as written before transformers could read it
        name = saved.pop("model_type", None)
        config = {field: value for field, value in saved.items() if field != "phasefield_version"}
    check_code(folder, config)
    try:
        entry = MODELS[name]
        model = entry.model_class(entry.config_class(**config))
        load_weights(model, folder / "model.safetensors")
        tokenizer = load_tokenizer(folder)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {folder} (model {name!r}, written by phasefield {version}) cannot be loaded by "
            f"phasefield {__version__}: {error}"
        ) from error
    return model.to(device).eval(), tokenizer


def check_code(checkpoint: Path | str, config: dict[str, Any]) -> None:
    """Refuse a checkpoint's config that would run Python code which the user has not named.

    A phase-field config names files with parts of the user's own. They may run if they are loaded already, or
    if the environment variable ``PHASEFIELD_PLUGINS`` names them, separated by commas.

    Raises:
        UserError: one is neither.
    """
    trusted = os.environ.get("PHASEFIELD_PLUGINS", "").split(",")
    for plugin in filter(None, str(config.get("plugins") or "").split(",")):
        if plugin not in trusted and not is_loaded(plugin):
            raise UserError(
                f"checkpoint {checkpoint} needs the Python code in {plugin}, which no checkpoint runs by "
                f"itself; if you trust it, set PHASEFIELD_PLUGINS={plugin}."
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that a person can read; NaN and infinity are refused."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not a checkpoint, or a damaged one: {path.name} is missing."
        ) from None
    except ValueError as error:
        raise UserError(f"checkpoint {path.parent} is damaged: {path.name} is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path.parent} is damaged: {path.name} holds no JSON object.")
    return content


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors by name.

    Raises:
        OSError: the disk is full, or failed.
    """
    with _full_disk_is_an_os_error(path.name):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


@contextmanager
def _full_disk_is_an_os_error(name: str) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{name}: {error}") from error


def seal(folder: Path) -> None:
    """Write the manifest, then wait until every file of the folder is on the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    write_json(folder / MANIFEST, {"sha256": {path.name: sha256(path) for path in files}})
    for path in files:
        shutil.copymode(folder / MANIFEST, path)  # safetensors makes its files private
        sync_file(path)
    sync_file(folder / MANIFEST)
    sync_folder(folder)


def verify(folder: Path) -> None:
    """Check that a checkpoint is whole: every file of its manifest is there, with the contents it had.

    Raises:
        UserError: naming the folder and the file that is missing or damaged.
    """
    digests = read_json(folder / MANIFEST).get("sha256")
    if not isinstance(digests, dict):
        raise UserError(f"checkpoint {folder} is damaged: {MANIFEST} holds no digests.")
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"checkpoint {folder} is damaged: {name} is missing.")
        if sha256(path) != digest:
            raise UserError(
                f"checkpoint {folder} is damaged: the contents of {name} are not what was written "
                f"({path.stat().st_size:,} bytes, wrong SHA-256)."
            )
