"""hebbian_update_, Hebb's rule and Oja's, against torch's in-place product."""

from functools import partial

import torch
from torch import Tensor

from phasefield_kernels import hebbian_update_

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import wide

RATE, DECAY = 0.01, 0.99


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    M, N, K = (shape[name] for name in "MNK")
    return {
        "weight": torch.randn(N, K).to(dtype) * K**-0.5,
        "post": torch.randn(M, N).to(dtype),
        "pre": torch.randn(M, K).to(dtype),
    }


def work(shape: Shape) -> Work:
    # The product; decay and sum of each weight.
    M, N, K = (shape[name] for name in "MNK")
    return Work(flops=2 * M * N * K + 3 * N * K)


def hebb(weight: Tensor, post: Tensor, pre: Tensor) -> Tensor:
    return weight.addmm_(post.T, pre, beta=DECAY, alpha=RATE / len(post))


def oja(weight: Tensor, post: Tensor, pre: Tensor) -> Tensor:
    square = wide(post).square().mean(0, keepdim=True).T
    weight.mul_(DECAY - RATE * square)
    return weight.addmm_(post.T, pre, alpha=RATE / len(post))


HEBB = Operation(
    name="hebbian_update_",
    variant="hebb",
    call=partial(hebbian_update_, rate=RATE, decay=DECAY, rule="hebb"),
    inputs=inputs,
    work=work,
    small={"M": 5, "N": 9, "K": 7},
    shapes=({"M": 512, "N": 512, "K": 512}, {"M": 2048, "N": 1024, "K": 1024}),
    further=({"M": 32, "N": 512, "K": 512}, {"M": 32, "N": 2048, "K": 2048}),
    gradients=False,
    peers=(Peer("addmm_", hebb),),
)

OJA = Operation(
    name="hebbian_update_",
    variant="oja",
    call=partial(hebbian_update_, rate=RATE, decay=DECAY, rule="oja"),
    inputs=inputs,
    work=work,
    small={"M": 5, "N": 9, "K": 7},
    shapes=({"M": 512, "N": 512, "K": 512}, {"M": 2048, "N": 1024, "K": 1024}),
    gradients=False,
    peers=(Peer("mul_, addmm_", oja),),
)


@entries(HEBB, OJA)
def test_hebbian_update(race, competitor, compete):
    compete(race, competitor)
