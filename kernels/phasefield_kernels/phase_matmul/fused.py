"""phase_matmul in Triton: the right operand structured, then one product (:mod:`..complex_product`)."""

import torch
from torch import Tensor

from ..complex_product.launch import as_batched, folded, gauss, product


def forward(a: Tensor, b: Tensor, algorithm: str) -> Tensor:
    """``a @ b``; a single right matrix is one product with all rows of a."""
    if b.ndim == 3 and a.ndim > 3:
        return forward(_rows(a), b, algorithm).view(*a.shape[:-2], b.shape[1], 2)
    left, right, batch = as_batched(a, b)
    y, _ = product(left, right.transpose(2, 3), algorithm=algorithm)
    return y.view(*batch, *y.shape[2:])


def backward(
    grad: Tensor, a: Tensor, b: Tensor, for_a: bool, for_b: bool, algorithm: str
) -> tuple[Tensor | None, Tensor | None]:
    """With g = dL/dy:  da = g bᴴ,  db = aᴴ g, summed over the batches that an operand was repeated in."""
    if b.ndim == 3 and a.ndim > 3:
        grad_a, grad_b = backward(_rows(grad), _rows(a), b, for_a, for_b, algorithm)
        return None if grad_a is None else grad_a.view(a.shape), grad_b
    grad_a = grad_b = None
    if for_a:
        left, right, batch = as_batched(grad, b)
        grad_a, _ = product(left, right, conjugate=True, algorithm=algorithm)
        grad_a = _summed(grad_a, batch, a)
    if for_b:
        left, right, batch = as_batched(a, grad)
        repeated = batch != b.shape[:-3]
        dtype = torch.float32 if repeated else b.dtype
        if algorithm == "gauss":
            left, right = left.transpose(2, 3), right.transpose(2, 3)
            grad_b, _ = gauss(left, right, conjugate_left=True, dtype=dtype)
        else:
            grad_b = folded(left, right, sign=-1, dtype=dtype)
        grad_b = _summed(grad_b, batch, b)
    return grad_a, grad_b


def _rows(a: Tensor) -> Tensor:
    # All rows of all batches.
    return a.reshape(a.shape[:-2].numel(), *a.shape[-2:])


def _summed(grad: Tensor, batch: torch.Size, operand: Tensor) -> Tensor:
    grad = grad.view(*batch, *grad.shape[2:])
    if grad.shape == operand.shape:
        return grad
    return grad.float().sum_to_size(operand.shape).to(operand.dtype)
