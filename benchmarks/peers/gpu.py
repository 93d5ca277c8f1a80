"""Peers that have no form for a CPU: called as their own documents call them.

They have been read, not run: where one is installed on a machine with a GPU, its proof runs first.
causal_conv1d is not among them: no op here is a short convolution.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..operation import HALF, SINGLE, TF32, Inputs, Peer
from .layouts import channels_first, wide

SHORT = (torch.float32, torch.bfloat16)


def _mamba_scan(**inputs: Tensor) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(inputs.pop("x"), inputs.pop("dt"), **inputs)


MAMBA_SSM = Peer(
    "mamba_ssm",
    _mamba_scan,
    channels_first(("x", "dt", "z", "B", "C")),
    lambda y: y.transpose(1, 2),
    package="mamba_ssm",
    gpu_only=True,
    precision=SINGLE,
    dtypes=SHORT,
)


def _mamba_step(state: Tensor, x: Tensor, dt: Tensor, **others: Tensor) -> Tensor:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    return selective_state_update(state, x, dt, **others)


MAMBA_SSM_STEP = Peer(
    "mamba_ssm", _mamba_step, package="mamba_ssm", gpu_only=True, precision=SINGLE, dtypes=SHORT
)


def _ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=256, D=D)


MAMBA_SSM_SSD = Peer("mamba_ssm", _ssd, package="mamba_ssm", gpu_only=True, precision=TF32, dtypes=SHORT)


def _gated_linear(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(q, k, v, log_decay, scale=1.0)[0]


def _beta_in_values(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Inputs:
    return {"q": q, "k": k, "v": (v * beta.unsqueeze(-1)).to(v.dtype), "log_decay": wide(log_decay)}


FLA_GLA = Peer(
    "fla simple_gla",
    _gated_linear,
    _beta_in_values,
    package="fla",
    gpu_only=True,
    precision=TF32,
    dtypes=SHORT,
)


def _delta_rule(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return chunk_gated_delta_rule(q, k, v, log_decay, beta, scale=1.0)[0]


FLA_DELTA = Peer(
    "fla gated_delta_rule",
    _delta_rule,
    lambda **inputs: inputs | {"log_decay": wide(inputs["log_decay"])},
    package="fla",
    gpu_only=True,
    precision=HALF,
    dtypes=(torch.bfloat16,),
)


def accelerated_scan(a: Tensor, u: Tensor) -> Tensor:
    """The warp kernel of accelerated-scan on ``[B, T, D, N]``; its own is ``[B, channels, T]``."""
    from accelerated_scan.warp import scan

    length = u.shape[1]
    padding = max(32, 1 << (length - 1).bit_length()) - length
    gates, tokens = (
        F.pad(t.movedim(1, -1).flatten(1, -2), (0, padding)).contiguous() for t in (a.expand_as(u), u)
    )
    return scan(gates, tokens)[..., :length].unflatten(1, u.shape[2:]).movedim(-1, 1)
