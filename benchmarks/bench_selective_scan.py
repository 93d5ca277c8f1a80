"""selective_scan, Mamba's recurrence with skip and gate, against every PyTorch form of it that people run."""

import torch
from torch import Tensor
from torch.nn import functional as F

from phasefield_kernels import selective_scan, selective_scan_step_

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.gpu import MAMBA_SSM, MAMBA_SSM_STEP
from .peers.hugging_face import MAMBA, MAMBA_STEP
from .peers.layouts import wide
from .peers.linear import linear_peers


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    B, T, D, N = (shape[name] for name in "BTDN")
    return {
        "x": torch.randn(B, T, D).to(dtype),
        "dt": F.softplus(torch.randn(B, T, D) - 2).to(dtype),
        # Mamba starts with A = −1, −2, …, −N.
        "A": -torch.arange(1, N + 1).float().expand(D, N) * (0.5 + torch.rand(D, N)),
        "B": torch.randn(B, T, N).to(dtype),
        "C": torch.randn(B, T, N).to(dtype),
        "D": torch.randn(D),
        "z": torch.randn(B, T, D).to(dtype),
    }


def work(shape: Shape) -> Work:
    # A state: Δ A, its exponential, decay, input times B, sum; C times h and its sum. The gate's sigmoid.
    channels = shape["B"] * shape["T"] * shape["D"]
    return Work(flops=6 * channels * shape["N"], special=channels * (shape["N"] + 1), backward=2)


def coefficients(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, **_: Tensor) -> tuple[Tensor, Tensor]:
    delta = wide(dt).unsqueeze(-1)
    return torch.exp(delta * A), delta * wide(B).unsqueeze(2) * wide(x).unsqueeze(-1)


def read_out(h: Tensor, x: Tensor, C: Tensor, D: Tensor, z: Tensor, **_: Tensor) -> Tensor:
    y = (h @ wide(C).unsqueeze(-1)).squeeze(-1) + D * wide(x)
    return (y * F.silu(wide(z))).to(x.dtype)


def step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, state: Tensor
) -> Tensor:
    delta = wide(dt).unsqueeze(-1)
    state.mul_(torch.exp(delta * A)).add_(delta * wide(x).unsqueeze(-1) * wide(B).unsqueeze(1))
    y = (state @ wide(C).unsqueeze(-1)).squeeze(-1) + D * wide(x)
    return (y * F.silu(wide(z))).to(x.dtype)


OPERATION = Operation(
    name="selective_scan",
    call=selective_scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "D": 7, "N": 5},
    shapes=({"B": 2, "T": 256, "D": 256, "N": 16}, {"B": 1, "T": 4096, "D": 128, "N": 16}),
    further=(
        {"B": 2, "T": 256, "D": 1024, "N": 16},
        {"B": 2, "T": 256, "D": 256, "N": 4},
        {"B": 2, "T": 256, "D": 256, "N": 64},
    ),
    scaling={"B": 1, "D": 32, "N": 16},
    timed=("x", "dt", "B", "C", "z"),
    state=lambda x, A, **_: (x.shape[0], *A.shape),
    step=lambda state, backend, **token: selective_scan_step_(
        **token, dt_bias=None, dt_softplus=False, state=state, backend=backend
    ),
    peers=(*linear_peers(coefficients, read_out, pscan=True, longest=4096), MAMBA, MAMBA_SSM),
    step_peers=(Peer("eager step", step), MAMBA_STEP, MAMBA_SSM_STEP),
)


@entries(OPERATION)
def test_selective_scan(race, competitor, compete):
    compete(race, competitor)
