"""phase_matmul, batched, against torch's complex product and four real ones."""

import torch
from torch import Tensor

from phasefield_kernels import phase_matmul

from .entries import entries
from .operation import Inputs, Operation, Peer, Shape, Work
from .peers.layouts import as_complex, as_pairs


def inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    H, M, K, N = (shape[name] for name in "HMKN")
    return {"a": torch.randn(H, M, K, 2).to(dtype), "b": torch.randn(H, K, N, 2).to(dtype)}


def work(shape: Shape) -> Work:
    # Four real products.
    return Work(flops=8 * shape["H"] * shape["M"] * shape["K"] * shape["N"], backward=2)


def by_complex_product(a: Tensor, b: Tensor) -> Tensor:
    return as_pairs(as_complex(a) @ as_complex(b), a)


def by_four_products(a: Tensor, b: Tensor) -> Tensor:
    (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
    return torch.stack([ar @ br - ai @ bi, ar @ bi + ai @ br], dim=-1)


OPERATION = Operation(
    name="phase_matmul",
    call=phase_matmul,
    inputs=inputs,
    work=work,
    small={"H": 3, "M": 5, "K": 9, "N": 7},
    shapes=({"H": 16, "M": 256, "K": 64, "N": 256}, {"H": 1, "M": 1024, "K": 512, "N": 1024}),
    further=({"H": 64, "M": 128, "K": 64, "N": 128}, {"H": 4, "M": 512, "K": 512, "N": 512}),
    peers=(Peer("complex product", by_complex_product), Peer("four real products", by_four_products)),
)


@entries(OPERATION)
def test_phase_matmul(race, competitor, compete):
    compete(race, competitor)
