"""phase_linear, with bias and modReLU, against torch's complex product and four real ones."""

import torch
from torch import Tensor
from torch.nn import functional as F

from phasefield_kernels import phase_linear
from phasefield_kernels.phase_linear.reference import EPSILON

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import as_complex, wide


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    M, K, N = (shape[name] for name in "MKN")
    return {
        "x": torch.randn(M, K, 2).to(dtype),
        "weight": torch.randn(N, K, 2).to(dtype) * K**-0.5,
        "bias": torch.randn(N, 2),
        "threshold": -torch.rand(N),
    }


def work(shape: Shape) -> Work:
    # Four real products; modReLU's root.
    M, K, N = (shape[name] for name in "MKN")
    return Work(flops=8 * M * K * N, special=M * N, backward=2)


def mod_relu(y: Tensor, threshold: Tensor) -> Tensor:
    modulus = (y.square().sum(-1) + EPSILON**2).sqrt()
    return y * (torch.relu(modulus + threshold) / modulus).unsqueeze(-1)


def by_complex_product(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    y = torch.view_as_real(as_complex(x) @ as_complex(weight).T) + bias
    return mod_relu(y, threshold).to(x.dtype)


def by_four_products(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    (xr, xi), (wr, wi) = x.unbind(-1), weight.unbind(-1)
    y = torch.stack([F.linear(xr, wr) - F.linear(xi, wi), F.linear(xr, wi) + F.linear(xi, wr)], dim=-1)
    return mod_relu(wide(y) + bias, threshold).to(x.dtype)


OPERATION = Operation(
    name="phase_linear",
    call=phase_linear,
    inputs=inputs,
    work=work,
    small={"M": 5, "K": 9, "N": 7},
    shapes=({"M": 2048, "K": 256, "N": 256}, {"M": 2048, "K": 512, "N": 1024}),
    further=({"M": 512, "K": 2048, "N": 2048}, {"M": 16, "K": 512, "N": 512}),
    peers=(Peer("complex product", by_complex_product), Peer("four real products", by_four_products)),
)


@entries(OPERATION)
def test_phase_linear(race, competitor, compete):
    compete(race, competitor)
