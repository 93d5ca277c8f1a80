"""phase_norm in Triton: whole rows in registers, each read once and written once.

A program of the forward owns ROWS rows, one of the backward a piece of many, ROWS at a time, and writes the
piece's sums for the parameters. Rows are the 2D neighbouring floats they are. A pointer that is None is an
input not given.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..complex_product.fused_product import EPSILON_SQUARED
from ..device import guard
from ..rows import pointers, rows_contiguous
from .configs import layout, piece_of


@triton.jit
def _load_row_tile(x_ptr, row, row_stride, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    # ROWS × BLOCK pairs in float32: (real, imaginary).
    column = tl.arange(0, 2 * BLOCK)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = tl.load(x_ptr + row[:, None] * row_stride + column[None, :], mask=inside, other=0.0)
    return tl.split(tl.reshape(x.to(tl.float32), (ROWS, BLOCK, 2)))


@triton.jit
def _store_row_tile(
    y_ptr, real, imaginary, row, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    column = tl.arange(0, 2 * BLOCK)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    y = tl.reshape(tl.join(real, imaginary), (ROWS, 2 * BLOCK))
    tl.store(y_ptr + row[:, None] * columns + column[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _forward_kernel(
    x_ptr,
    weight_ptr,
    threshold_ptr,
    y_ptr,
    rows,
    columns,
    x_row,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    #   y = s w r x,   r = (mean |x|² + ε)^-½,   s = relu(1 + t/m),   m = √(|w r x|² + ε²)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    pair = tl.arange(0, BLOCK)
    real, imaginary = _load_row_tile(x_ptr, row, x_row, rows, columns, ROWS, BLOCK)
    square = tl.sum(real * real + imaginary * imaginary, 1)
    inverse = tl.rsqrt(2.0 * square / columns + eps)
    weight = tl.load(weight_ptr + pair, mask=2 * pair < columns, other=0.0).to(tl.float32)
    scale = inverse[:, None] * weight[None, :]
    real *= scale
    imaginary *= scale
    if threshold_ptr is not None:
        threshold = tl.load(threshold_ptr + pair, mask=2 * pair < columns, other=0.0).to(tl.float32)
        over_modulus = tl.rsqrt(real * real + imaginary * imaginary + EPSILON_SQUARED)
        scale = tl.maximum(1.0 + threshold[None, :] * over_modulus, 0.0)
        real *= scale
        imaginary *= scale
    _store_row_tile(y_ptr, real, imaginary, row, rows, columns, ROWS, BLOCK)


@triton.jit
def _backward_kernel(
    grad_ptr, x_ptr, weight_ptr, threshold_ptr, grad_x_ptr, weight_sum_ptr, threshold_sum_ptr,
    rows, columns, piece, grad_row, x_row, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    #   dz = s g − t/m³ ⟨z, g⟩ z,   dt = Σ ⟨z, g⟩/m,   dw = Σ r ⟨x, dz⟩
    #   dx = r (w dz − c x),   c = r² mean w ⟨x, dz⟩     (Σ over rows, the mean over a row)
    first = tl.program_id(0).to(tl.int64) * piece
    pair = tl.arange(0, BLOCK)
    lanes = 2 * pair < columns
    weight = tl.load(weight_ptr + pair, mask=lanes, other=0.0).to(tl.float32)[None, :]
    if threshold_ptr is not None:
        threshold = tl.load(threshold_ptr + pair, mask=lanes, other=0.0).to(tl.float32)[None, :]
        threshold_sum = tl.zeros((BLOCK,), tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    for step in range(0, piece, ROWS):
        row = first + step + tl.arange(0, ROWS)
        x_real, x_imaginary = _load_row_tile(x_ptr, row, x_row, rows, columns, ROWS, BLOCK)
        real, imaginary = _load_row_tile(grad_ptr, row, grad_row, rows, columns, ROWS, BLOCK)
        square = tl.sum(x_real * x_real + x_imaginary * x_imaginary, 1)
        inverse = tl.rsqrt(2.0 * square / columns + eps)[:, None]
        if threshold_ptr is not None:
            factor = inverse * weight
            z_real = factor * x_real
            z_imaginary = factor * x_imaginary
            over_modulus = tl.rsqrt(z_real * z_real + z_imaginary * z_imaginary + EPSILON_SQUARED)
            shift = threshold * over_modulus
            scale = tl.maximum(1.0 + shift, 0.0)
            along = tl.where(scale > 0, (z_real * real + z_imaginary * imaginary) * over_modulus, 0.0)
            threshold_sum += tl.sum(along, 0)
            bent = shift * along * over_modulus
            real = scale * real - bent * z_real
            imaginary = scale * imaginary - bent * z_imaginary
        along = x_real * real + x_imaginary * imaginary
        weight_sum += tl.sum(along * inverse, 0)
        c = (tl.sum(along * weight, 1) * 2.0 / columns)[:, None] * inverse * inverse
        real = inverse * (weight * real - c * x_real)
        imaginary = inverse * (weight * imaginary - c * x_imaginary)
        _store_row_tile(grad_x_ptr, real, imaginary, row, rows, columns, ROWS, BLOCK)
    at = tl.program_id(0).to(tl.int64) * (columns // 2) + pair
    tl.store(weight_sum_ptr + at, weight_sum, mask=lanes)
    if threshold_ptr is not None:
        tl.store(threshold_sum_ptr + at, threshold_sum, mask=lanes)


def forward(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float) -> Tensor:
    """Values, in x's dtype."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x = _matrix(x)
    count, width = x.shape[:2]
    if y.numel():
        rows, block, warps = layout("forward", width)
        with guard(x):
            _forward_kernel[(triton.cdiv(count, rows),)](
                **pointers(_forward_kernel, x=x, y=y, **_parameters(weight, threshold)),
                rows=count, columns=2 * width, x_row=x.stride(0), eps=eps,
                ROWS=rows, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
            )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to x, weight and threshold: the mathematics is in blocked.py."""
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x, grad = _matrix(x), _matrix(grad)
    count, width = x.shape[:2]
    rows, block, warps = layout("backward", width)
    piece = piece_of(count, rows)
    pieces = triton.cdiv(count, piece) if grad_x.numel() else 0
    sums = dict(dtype=torch.float32, device=x.device)
    weight_sum = torch.empty((pieces, width), **sums)
    threshold_sum = None if threshold is None else torch.empty((pieces, width), **sums)
    if pieces:
        with guard(x):
            _backward_kernel[(pieces,)](
                **pointers(
                    _backward_kernel, grad=grad, x=x, grad_x=grad_x, weight_sum=weight_sum,
                    threshold_sum=threshold_sum, **_parameters(weight, threshold),
                ),
                rows=count, columns=2 * width, piece=piece, grad_row=grad.stride(0), x_row=x.stride(0),
                eps=eps, ROWS=rows, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
            )  # fmt: skip
    return grad_x, weight_sum.sum(0), None if threshold is None else threshold_sum.sum(0)


def _matrix(x: Tensor) -> Tensor:
    # […, D, 2] as [rows, D, 2], a row contiguous; copied only where strides do not line up.
    return rows_contiguous(x.reshape(x.shape[:-2].numel(), *x.shape[-2:]), first=1)


def _parameters(weight: Tensor, threshold: Tensor | None) -> dict[str, Tensor | None]:
    return {"weight": weight.contiguous(), "threshold": None if threshold is None else threshold.contiguous()}
