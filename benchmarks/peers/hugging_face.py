"""The PyTorch functions of transformers, what its models run where no kernels are installed.

They are called below the decorator that would put an installed package's kernel in their place.
"""

import inspect
from importlib import import_module

from torch import Tensor

from ..operation import FORWARD, SINGLE, TRAINING, Inputs, Peer
from .layouts import channels_first


def _function(module: str, name: str) -> object:
    return inspect.unwrap(getattr(import_module(f"transformers.models.{module}"), name))


def _selective_scan(**inputs: Tensor) -> Tensor:
    x, others = inputs["x"], {name: inputs[name] for name in ("dt", "A", "B", "C", "D", "z")}
    return _function("mamba.modeling_mamba", "mamba_selective_scan")(x, **others)


MAMBA = Peer(
    "transformers Mamba",
    _selective_scan,
    # B and C stay [B, T, N] in memory: it transposes them itself.
    lambda **inputs: {
        name: tensor.transpose(1, 2) if name in ("B", "C") else tensor
        for name, tensor in channels_first(("x", "dt", "z"))(**inputs).items()
    },
    lambda y: y.transpose(1, 2),
    package="transformers",
    precision=SINGLE,
    longest={FORWARD: 4096, TRAINING: 256},
    why="it indexes its tensors in a loop, whose gradient takes time by T²",
)
"""The Mamba mixer's sequential path, the default since transformers 5.15."""


def _selective_step(state: Tensor, x: Tensor, **others: Tensor) -> Tensor:
    return _function("mamba.modeling_mamba", "mamba_selective_state_update")(state, x, **others)


MAMBA_STEP = Peer("transformers Mamba", _selective_step, package="transformers", precision=SINGLE)


def _chunk_scan(**inputs: Tensor) -> Tensor:
    x, dt, A, B, C, D = (inputs[name] for name in ("x", "dt", "A", "B", "C", "D"))
    y = _function("mamba2.modeling_mamba2", "mamba2_chunk_scan")(x, dt, A, B, C, 256, D=D)
    return y.to(x.dtype)


MAMBA2 = Peer(
    "transformers Mamba-2", _chunk_scan, package="transformers", precision=SINGLE, longest={TRAINING: 16_384}
)


def _delta_rule(**inputs: Tensor) -> Tensor:
    return _function("qwen3_next.modeling_qwen3_next", "torch_chunk_gated_delta_rule")(**inputs)[0]


def _delta_rule_names(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Inputs:
    # It divides queries by √K.
    return {"query": q * q.shape[-1] ** 0.5, "key": k, "value": v, "g": log_decay, "beta": beta}


DELTA_RULE = Peer(
    "transformers Qwen3-Next", _delta_rule, _delta_rule_names, package="transformers", precision=SINGLE
)
