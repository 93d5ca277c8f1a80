"""gravity_field against its formula over whole T × T matrices."""

from functools import partial

import torch
from torch import Tensor

from phasefield_kernels import gravity_field

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import wide

SOFTENING = 0.5


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    B, T, D = (shape[name] for name in "BTD")
    return {"x": torch.randn(B, T, D).to(dtype), "mass": torch.rand(B, T)}


def work(shape: Shape) -> Work:
    # Half of the pairs: two products over D, and a power of −3/2. Backward: four more products.
    B, T, D = (shape[name] for name in "BTD")
    pairs = B * T * (T - 1) / 2
    return Work(flops=pairs * (4 * D + 8), special=pairs, backward=2)


def by_matrices(x: Tensor, mass: Tensor) -> Tensor:
    """Distances by a product, as gravity in phase models is written."""
    points = wide(x)
    squares = points.square().sum(-1)
    distance = squares.unsqueeze(2) + squares.unsqueeze(1) - 2 * points @ points.mT
    weight = (distance.clamp(min=0) + SOFTENING**2) ** -1.5 * mass.unsqueeze(1)
    weight = weight.tril(-1)
    return (weight @ points - weight.sum(-1, keepdim=True) * points).to(x.dtype)


OPERATION = Operation(
    name="gravity_field",
    call=partial(gravity_field, softening=SOFTENING),
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 4, "T": 256, "D": 64}, {"B": 1, "T": 2048, "D": 64}),
    further=({"B": 1, "T": 8192, "D": 64}, {"B": 1, "T": 1024, "D": 16}, {"B": 1, "T": 1024, "D": 256}),
    timed=("x", "mass"),
    peers=(Peer("T × T matrices", by_matrices),),
)


@entries(OPERATION)
def test_gravity_field(race, competitor, compete):
    compete(race, competitor)
