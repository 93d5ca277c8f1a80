"""Mamba checkpoints of others: transformers' folders, read and written, and the original ones, read."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..models import MambaConfig, MambaLM

_FIELDS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "tie_embeddings": "tie_word_embeddings",
    "norm_eps": "layer_norm_epsilon",
}


def load_mamba(folder: str | Path) -> MambaLM:
    """Read a Mamba language model from a folder, on the CPU, in the dtype of its weights.

    Two layouts are told apart by their ``config.json``:

    - transformers' ``MambaForCausalLM``: ``model.safetensors``, whole or in shards;
    - state-spaces' original one (``d_model`` in its config), whose ``pytorch_model.bin`` is unpickled
      without running code (``weights_only``).

    Args:
        folder: a local one; nothing is downloaded.

    Raises:
        ValueError: another kind of model, or a feature that this one lacks; the message names it.
        FileNotFoundError: a file is missing.
        RuntimeError: weights that do not fit the config.
    """
    folder = Path(folder)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    original = "d_model" in saved
    config = _original_config(saved, folder) if original else _transformers_config(saved, folder)
    weights = _pickled(folder) if original else _safetensors(folder)
    weights = {_own_name(name): tensor for name, tensor in weights.items()}
    if config.tie_embeddings:
        weights.pop("head.weight", None)
    model = MambaLM(config).to(weights["embedding.weight"].dtype)
    model.load_state_dict(weights)
    return model


def save_mamba(model: MambaLM, folder: str | Path) -> None:
    """Write a model as transformers' ``MambaForCausalLM.from_pretrained`` reads it.

    Args:
        model: on any device.
        folder: made if it is not there; ``config.json`` and ``model.safetensors`` in it are overwritten.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {theirs: getattr(model.config, own) for own, theirs in _FIELDS.items()}
    config |= {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_act": "silu",
        "time_step_rank": model.config.dt_rank or "auto",
        "residual_in_fp32": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {_their_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _transformers_config(saved: dict[str, Any], folder: Path) -> MambaConfig:
    _require(folder, "model_type", saved.get("model_type"), "mamba")
    _require(folder, "hidden_act", saved.get("hidden_act", "silu"), "silu", "swish")
    # What a config leaves out has transformers' default.
    theirs = {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32} | saved
    fields = {own: theirs[name] for own, name in _FIELDS.items() if name in theirs}
    if fields.get("dt_rank") == "auto":
        fields["dt_rank"] = None
    _require(
        folder,
        "intermediate_size",
        saved.get("intermediate_size", fields.get("expand", 2) * fields["dim"]),
        fields.get("expand", 2) * fields["dim"],
    )
    return MambaConfig(**fields)


def _original_config(saved: dict[str, Any], folder: Path) -> MambaConfig:
    blocks = dict(saved.get("ssm_cfg") or {})
    _require(folder, "ssm_cfg.layer", blocks.pop("layer", "Mamba1"), "Mamba1")
    _require(folder, "rms_norm", saved.get("rms_norm", True), True)
    _require(folder, "attn_layer_idx", saved.get("attn_layer_idx") or [], [])
    _require(folder, "d_intermediate", saved.get("d_intermediate", 0), 0)
    fields = {name: blocks.pop(name) for name in ("d_state", "d_conv", "expand", "bias") if name in blocks}
    fields["conv_bias"] = blocks.pop("conv_bias", True)
    rank = blocks.pop("dt_rank", "auto")
    # Of the others some say how a block starts.
    unknown = blocks.keys() - {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"}
    if unknown:
        known = f"{folder / 'config.json'} has {', '.join(sorted(unknown))}"
        raise ValueError(f"ssm_cfg in {known}; it must describe mamba_ssm's first Mamba block.")
    multiple = saved.get("pad_vocab_size_multiple", 8)
    return MambaConfig(
        vocab_size=-(-saved["vocab_size"] // multiple) * multiple,
        dim=saved["d_model"],
        num_layers=saved["n_layer"],
        dt_rank=None if rank == "auto" else rank,
        tie_embeddings=saved.get("tie_embeddings", True),
        **fields,
    )


def _require(folder: Path, name: str, given: Any, *allowed: Any) -> None:
    if given not in allowed:
        choice = " or ".join(map(repr, allowed))
        raise ValueError(f"{name} in {folder / 'config.json'} is {given!r}; it must be {choice}.")


def _safetensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return load_file(folder / "model.safetensors")
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return {name: tensor for shard in sorted(shards) for name, tensor in load_file(folder / shard).items()}


def _pickled(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)


# backbone.layers.0.mixer.in_proj.weight ↔ layers.0.in_proj.weight, and the three beside the layers.
_NAMES = {
    "backbone.embeddings.weight": "embedding.weight",
    "backbone.norm_f.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
_THEIR_NAMES = {own: theirs for theirs, own in _NAMES.items()}


def _own_name(name: str) -> str:
    name = name.replace("backbone.embedding.", "backbone.embeddings.")
    return _NAMES.get(name) or name.removeprefix("backbone.").replace(".mixer.", ".")


def _their_name(name: str) -> str:
    if name in _THEIR_NAMES:
        return _THEIR_NAMES[name]
    layers, index, rest = name.split(".", 2)
    return f"backbone.{layers}.{index}.{rest if rest.startswith('norm.') else f'mixer.{rest}'}"
