"""linoss_scan against a loop, and LinOSS's own way, an associative scan of 2×2 maps."""

import torch
from torch import Tensor

from phasefield_kernels import linoss_scan, linoss_scan_step_

from .entries import entries
from .operation import FORWARD, TRAINING, Inputs, Operation, Peer, Shape, Work
from .peers.layouts import wide


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return {
        "u": torch.randn(shape["B"], shape["T"], shape["D"]).to(dtype),
        "A": 0.1 + torch.rand(shape["D"]),
        "dt": 0.1 + 0.9 * torch.rand(shape["D"]),
    }


def work(shape: Shape) -> Work:
    # A 2×2 matrix times a vector, and the force's two contributions.
    return Work(flops=10 * shape["B"] * shape["T"] * shape["D"], backward=2)


def loop(u: Tensor, A: Tensor, dt: Tensor) -> Tensor:
    shrink = 1 / (1 + dt * dt * A)
    q = v = torch.zeros_like(wide(u[:, 0]))
    positions = []
    for u_t in wide(u).unbind(1):
        v = shrink * (v + dt * (u_t - A * q))
        q = q + dt * v
        positions.append(q)
    return torch.stack(positions, dim=1).to(u.dtype)


def by_associative_scan(u: Tensor, A: Tensor, dt: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    shrink = 1 / (1 + dt * dt * A)
    # (q, v) ← M (q, v) + u F; M by element, as LinOSS multiplies them.
    step = torch.stack([1 - shrink * dt * dt * A, shrink * dt, -shrink * dt * A, shrink])
    force = wide(u) * torch.stack([shrink * dt * dt, shrink * dt])[:, None, None]
    elements = tuple(m.expand_as(u).contiguous() for m in step)

    def combine(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        a, b, c, d, q, v = left
        e, f, g, h, r, w = right
        return (
            *(e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d),
            *(e * q + f * v + r, g * q + h * v + w),
        )

    found = associative_scan(combine, (*elements, *force.unbind(0)), dim=1, combine_mode="generic")
    return found[4].to(u.dtype)


def step(u: Tensor, A: Tensor, dt: Tensor, state: Tensor) -> Tensor:
    q, v = state.unbind(-1)
    v.copy_((v + dt * (u - A * q)) / (1 + dt * dt * A))
    q.add_(dt * v)
    return q.to(u.dtype)


LONGEST = {FORWARD: 16_384, TRAINING: 16_384}

OPERATION = Operation(
    name="linoss_scan",
    call=linoss_scan,
    inputs=inputs,
    work=work,
    small={"B": 2, "T": 21, "D": 7},
    shapes=({"B": 8, "T": 256, "D": 256}, {"B": 1, "T": 8192, "D": 256}),
    further=({"B": 8, "T": 1024, "D": 64}, {"B": 8, "T": 1024, "D": 1024}),
    scaling={"B": 1, "D": 64},
    timed=("u",),
    state=lambda u, **_: (u.shape[0], u.shape[2], 2),
    step=linoss_scan_step_,
    peers=(
        Peer("unbind loop", loop, longest=LONGEST),
        Peer("associative_scan", by_associative_scan, longest=LONGEST),
    ),
    step_peers=(Peer("eager step", step),),
)


@entries(OPERATION)
def test_linoss_scan(race, competitor, compete):
    compete(race, competitor)
