"""aperiodic_scan against the loop that Landauer LLM's cell is written as; no other package solves it."""

import torch
from torch import Tensor

from phasefield_kernels import aperiodic_scan, aperiodic_scan_step_, golden_phases, radians_from_phase

from .entries import entries
from .operation import FORWARD, TRAINING, Inputs, Operation, Peer, Shape, Work
from .peers.layouts import wide


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return {
        "u": torch.randn(shape["B"], shape["T"], shape["D"]).to(dtype),
        "scale": 2 * torch.rand(shape["D"]) - 1,
        "phase": golden_phases(shape["D"]),
    }


def work(shape: Shape) -> Work:
    # cos and tanh; two additions and two multiplications. Backward: cos, sin and the derivatives' products.
    steps = shape["B"] * shape["T"] * shape["D"]
    return Work(flops=4 * steps, special=2 * steps, backward=2)


def radians(phase: Tensor, **others: Tensor) -> Inputs:
    return {"phase": radians_from_phase(phase, torch.float64).to(wide(others["u"]).dtype), **others}


def loop(u: Tensor, scale: Tensor, phase: Tensor) -> Tensor:
    h, states = torch.zeros_like(wide(u[:, 0])), []
    for u_t in wide(u).unbind(1):
        h = torch.tanh(u_t + scale * h * torch.cos(phase + h))
        states.append(h)
    return torch.stack(states, dim=1).to(u.dtype)


def step(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor) -> Tensor:
    state.copy_(torch.tanh(u + scale * state * torch.cos(phase + state)))
    return state.to(u.dtype)


OPERATION = Operation(
    name="aperiodic_scan",
    call=aperiodic_scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 32, "T": 256, "D": 256}, {"B": 1, "T": 8192, "D": 256}),
    further=({"B": 8, "T": 1024, "D": 64}, {"B": 8, "T": 1024, "D": 1024}),
    scaling={"B": 1, "D": 64},
    timed=("u",),
    constant=("phase",),
    state=lambda u, **_: (u.shape[0], u.shape[2]),
    step=aperiodic_scan_step_,
    peers=(Peer("unbind loop", loop, radians, longest={FORWARD: 16_384, TRAINING: 16_384}),),
    step_peers=(Peer("eager step", step, radians),),
)


@entries(OPERATION)
def test_aperiodic_scan(race, competitor, compete):
    compete(race, competitor)
