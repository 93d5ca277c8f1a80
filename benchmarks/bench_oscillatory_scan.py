"""oscillatory_scan against loops and associative_scan in complex numbers, their gates applied beforehand."""

import torch
from torch import Tensor

from phasefield_kernels import oscillatory_scan, oscillatory_scan_step_

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import as_complex, as_pairs, wide
from .peers.linear import linear_peers


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return {
        "x": torch.randn(shape["B"], shape["T"], shape["D"], 2).to(dtype),
        "gate": torch.randn(shape["B"], shape["T"], shape["D"]).to(dtype),
        "angle": torch.rand(shape["D"], dtype=torch.float64),
        "log_damping": -0.1 * torch.rand(shape["D"]),
    }


def work(shape: Shape) -> Work:
    # A complex multiplication and addition, two weightings; the sigmoid's exponential.
    steps = shape["B"] * shape["T"] * shape["D"]
    return Work(flops=14 * steps, special=steps, backward=2)


def factor(angle: Tensor, log_damping: Tensor) -> Tensor:
    """The complex number that a step multiplies by, without its gate."""
    size = log_damping.exp()
    return torch.polar(size, angle.to(size.dtype))


def coefficients(x: Tensor, gate: Tensor, angle: Tensor, log_damping: Tensor) -> tuple[Tensor, Tensor]:
    g = wide(gate).sigmoid()
    return (1 - g) * factor(angle, log_damping), g * as_complex(x)


def read_out(h: Tensor, x: Tensor, **_: Tensor) -> Tensor:
    return as_pairs(h, x)


def step(x: Tensor, gate: Tensor, factor: Tensor, state: Tensor) -> Tensor:
    g = wide(gate).sigmoid()
    torch.view_as_complex(state).mul_((1 - g) * factor).add_(g * as_complex(x))
    return state.to(x.dtype)


def with_factor(x: Tensor, gate: Tensor, angle: Tensor, log_damping: Tensor) -> Inputs:
    return {"x": x, "gate": gate, "factor": factor(angle, log_damping)}


OPERATION = Operation(
    name="oscillatory_scan",
    call=oscillatory_scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 8, "T": 256, "D": 256}, {"B": 1, "T": 8192, "D": 256}),
    further=({"B": 8, "T": 1024, "D": 64}, {"B": 8, "T": 1024, "D": 1024}),
    scaling={"B": 1, "D": 64},
    timed=("x", "gate"),
    state=lambda x, **_: (x.shape[0], *x.shape[2:]),
    step=oscillatory_scan_step_,
    peers=linear_peers(coefficients, read_out),
    step_peers=(Peer("eager step", step, with_factor),),
)


@entries(OPERATION)
def test_oscillatory_scan(race, competitor, compete):
    compete(race, competitor)
