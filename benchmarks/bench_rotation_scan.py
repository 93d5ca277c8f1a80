"""rotation_scan against loops, associative_scan and convolutions in complex numbers."""

from functools import partial

import torch
from torch import Tensor

from phasefield_kernels import rotation_scan, rotation_scan_step_

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import as_complex, as_pairs, wide
from .peers.linear import linear_peers


def inputs(shape: Shape, dtype: torch.dtype, *, by_token: bool) -> Inputs:
    steps = (shape["B"], shape["T"], shape["D"]) if by_token else (shape["D"],)
    return {
        "x": torch.randn(shape["B"], shape["T"], shape["D"], 2).to(dtype),
        "angle": torch.rand(steps).to(dtype if by_token else torch.float64),
        "log_decay": (-0.1 * torch.rand(steps)).to(dtype if by_token else torch.float32),
    }


def work(shape: Shape, *, by_token: bool) -> Work:
    # A complex multiplication and addition; exp, cos and sin of each token's own coefficient.
    steps = shape["B"] * shape["T"] * shape["D"]
    return Work(flops=8 * steps, special=3 * steps if by_token else 0, backward=2)


def factor(angle: Tensor, log_decay: Tensor) -> Tensor:
    """The complex number that a step multiplies by."""
    size = wide(log_decay).exp()
    return torch.polar(size, wide(angle).to(size.dtype))


def coefficients(x: Tensor, angle: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    return factor(angle, log_decay), as_complex(x)


def read_out(h: Tensor, x: Tensor, **_: Tensor) -> Tensor:
    return as_pairs(h, x)


def step(x: Tensor, factor: Tensor, state: Tensor) -> Tensor:
    torch.view_as_complex(state).mul_(factor).add_(as_complex(x))
    return state.to(x.dtype)


def with_factor(x: Tensor, angle: Tensor, log_decay: Tensor) -> Inputs:
    return {"x": x, "factor": factor(angle, log_decay)}


CONSTANT = Operation(
    name="rotation_scan",
    variant="constant",
    call=rotation_scan,
    inputs=partial(inputs, by_token=False),
    work=partial(work, by_token=False),
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 8, "T": 256, "D": 256}, {"B": 1, "T": 8192, "D": 256}),
    further=({"B": 8, "T": 1024, "D": 64}, {"B": 8, "T": 1024, "D": 1024}),
    scaling={"B": 1, "D": 64},
    timed=("x",),
    state=lambda x, **_: (x.shape[0], *x.shape[2:]),
    step=rotation_scan_step_,
    peers=linear_peers(coefficients, read_out, constant=True),
    step_peers=(Peer("eager step", step, with_factor),),
)

BY_TOKEN = Operation(
    name="rotation_scan",
    variant="by token",
    call=rotation_scan,
    inputs=partial(inputs, by_token=True),
    work=partial(work, by_token=True),
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 8, "T": 256, "D": 256}, {"B": 1, "T": 8192, "D": 256}),
    timed=("x", "angle", "log_decay"),
    peers=linear_peers(coefficients, read_out),
)


@entries(CONSTANT, BY_TOKEN)
def test_rotation_scan(race, competitor, compete):
    compete(race, competitor)
