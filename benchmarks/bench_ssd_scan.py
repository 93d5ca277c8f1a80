"""ssd_scan, Mamba-2's recurrence with its skip, against a loop and transformers' chunked form."""

import torch
from torch import Tensor
from torch.nn import functional as F

from phasefield_kernels import use_backend
from phasefield_kernels.compat.mamba_ssm import ssd_scan

from .entries import entries
from .operation import FORWARD, TRAINING, Inputs, Operation, Peer, Shape, Work
from .peers.gpu import MAMBA_SSM_SSD
from .peers.hugging_face import MAMBA2
from .peers.layouts import wide


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    B, T, H, P, N = (shape[name] for name in "BTHPN")
    return {
        "x": torch.randn(B, T, H, P).to(dtype),
        "dt": F.softplus(torch.randn(B, T, H) - 2).to(dtype),
        "A": -1 - 15 * torch.rand(H),
        "B": torch.randn(B, T, 1, N).to(dtype),
        "C": torch.randn(B, T, 1, N).to(dtype),
        "D": torch.randn(H),
    }


def work(shape: Shape) -> Work:
    # Step by step, the least: decay, outer product and its sum, reading.
    steps = shape["B"] * shape["T"] * shape["H"]
    return Work(flops=5 * steps * shape["P"] * shape["N"], special=steps, backward=2)


def scan(backend: str, initial_state: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    with use_backend(backend):
        return ssd_scan(**inputs, chunk_size=256, initial_states=initial_state, return_final_states=True)


def loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    tokens = [wide(tensor).unbind(1) for tensor in (x, dt, B, C)]
    state = tokens[0][0].new_zeros(*x[:, 0].shape, B.shape[-1])
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(*tokens, strict=True):
        written = (dt_t.unsqueeze(-1) * x_t).unsqueeze(-1) * B_t.unsqueeze(2)
        state = (dt_t * A).exp()[..., None, None] * state + written
        outputs.append((state @ C_t.unsqueeze(-1)).squeeze(-1) + D.unsqueeze(-1) * x_t)
    return torch.stack(outputs, dim=1).to(x.dtype)


OPERATION = Operation(
    name="ssd_scan",
    call=scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "H": 3, "P": 5, "N": 4},
    shapes=(
        {"B": 2, "T": 256, "H": 8, "P": 64, "N": 64},
        {"B": 1, "T": 4096, "H": 4, "P": 64, "N": 64},
    ),
    further=({"B": 2, "T": 256, "H": 32, "P": 64, "N": 64}, {"B": 2, "T": 256, "H": 8, "P": 64, "N": 128}),
    scaling={"B": 1, "H": 2, "P": 32, "N": 32},
    timed=("x", "dt", "B", "C"),
    peers=(Peer("unbind loop", loop, longest={FORWARD: 4096, TRAINING: 4096}), MAMBA2, MAMBA_SSM_SSD),
)


@entries(OPERATION)
def test_ssd_scan(race, competitor, compete):
    compete(race, competitor)
