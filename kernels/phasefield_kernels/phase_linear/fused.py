"""phase_linear in Triton: one product with everything else in its epilogue (:mod:`..complex_product`).

Launches forward: the weight is structured (weight-sized), then one product that reads x once a column of
tiles and writes y. Backward with a threshold: one pass turns dL/dy into dL/dz; then dx (weight structured
again, product) and dW (one product, whose long sum is split where the weight alone is too few tiles).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..complex_product.fused_product import EPSILON_SQUARED
from ..complex_product.launch import folded, gauss, product
from ..device import guard
from ..rows import pointers

_BLOCK = 128  # floats of a row
_ROWS = 16  # at a time
_PIECE = 128  # rows whose sums one program forms: 0.75 % of what it reads and writes in bfloat16


@triton.jit
def _activation_backward_kernel(
    grad_ptr, saved_ptr, threshold_ptr, dz_ptr, bias_sum_ptr, threshold_sum_ptr,
    rows, columns, grad_row, PIECE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # PIECE rows of BLOCK floats: reads g = dL/dy and the saved z (0 under the threshold); writes dz and the
    # piece's own sums for bias and threshold. Without saved z only the sum of g, for the bias.
    #   m = √(|z|² + ε²),  s = (m + t)/m:   dz = s g − t/m³ Re(conj(z) g) z,   dt = Re(conj(z) g)/m
    piece = tl.program_id(0)
    pair = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if saved_ptr is not None:
        threshold = tl.load(threshold_ptr + pair, mask=2 * pair < columns, other=0.0).to(tl.float32)
    sum_real = tl.zeros((ROWS, BLOCK // 2), tl.float32)
    sum_imaginary = tl.zeros((ROWS, BLOCK // 2), tl.float32)
    sum_along = tl.zeros((ROWS, BLOCK // 2), tl.float32)
    for step in range(0, PIECE, ROWS):
        row = piece.to(tl.int64) * PIECE + step + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        g = tl.load(grad_ptr + row[:, None] * grad_row + column[None, :], mask=inside, other=0.0)
        real, imaginary = tl.split(tl.reshape(g.to(tl.float32), (ROWS, BLOCK // 2, 2)))
        if saved_ptr is not None:
            at = row[:, None] * columns + column[None, :]
            z = tl.load(saved_ptr + at, mask=inside, other=0.0).to(tl.float32)
            z_real, z_imaginary = tl.split(tl.reshape(z, (ROWS, BLOCK // 2, 2)))
            live = (z_real != 0) | (z_imaginary != 0)
            inverse = tl.rsqrt(z_real * z_real + z_imaginary * z_imaginary + EPSILON_SQUARED)
            shift = threshold[None, :] * inverse
            # z was rounded after it was found above the threshold: s may have slipped below 0.
            scale = 1.0 + shift
            scale = tl.where(live & (scale >= 0), scale, 0.0)
            along = tl.where(live, (z_real * real + z_imaginary * imaginary) * inverse, 0.0)
            sum_along += along
            bent = shift * along * inverse
            real = scale * real - bent * z_real
            imaginary = scale * imaginary - bent * z_imaginary
            dz = tl.reshape(tl.join(real, imaginary), (ROWS, BLOCK))
            tl.store(dz_ptr + at, dz.to(dz_ptr.dtype.element_ty), mask=inside)
        sum_real += real
        sum_imaginary += imaginary
    at = piece.to(tl.int64) * columns + column
    if bias_sum_ptr is not None:
        total = tl.join(tl.sum(sum_real, 0), tl.sum(sum_imaginary, 0))
        tl.store(bias_sum_ptr + at, tl.reshape(total, (BLOCK,)), mask=column < columns)
    if threshold_sum_ptr is not None:
        at = piece.to(tl.int64) * (columns // 2) + pair
        tl.store(threshold_sum_ptr + at, tl.sum(sum_along, 0), mask=2 * pair < columns)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor | None,
    residual: Tensor | None,
    keep: bool,
    algorithm: str,
) -> tuple[Tensor, Tensor | None]:
    """``(y, pre-activations)``, the latter in x's dtype, if asked for and there is a threshold."""
    out_shape = (*x.shape[:-2], weight.shape[0], 2)
    y, saved = product(
        _matrix(x), weight[None, None], algorithm=algorithm,
        bias=_contiguous(bias), threshold=_contiguous(threshold), residual=_contiguous(residual),
        keep=keep and threshold is not None,
    )  # fmt: skip
    return y.view(out_shape), None if saved is None else saved.view(out_shape)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    threshold: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
    algorithm: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, weight, bias and threshold, those that are needed: the mathematics is in blocked.py.

    dx = Wᴴ dz is a product as in the forward; dW = Σ dz xᴴ reads both as they are (see complex_product).
    """
    for_x, for_weight, for_bias, for_threshold = needs
    dz, bias_sum, threshold_sum = _matrix(grad), None, None
    if threshold is not None or for_bias:
        dz, bias_sum, threshold_sum = _through_activation(dz, saved, threshold, for_bias, for_threshold)
    x_matrix, w = _matrix(x), weight[None, None]
    grad_x = grad_weight = None
    if for_x:
        grad_x, _ = product(dz, w.transpose(2, 3), conjugate=True, algorithm=algorithm)
        grad_x = grad_x.view(x.shape)
    if for_weight:
        if algorithm == "gauss":
            by_unit, by_input = dz.transpose(2, 3), x_matrix.transpose(2, 3)
            grad_weight, _ = gauss(by_unit, by_input, conjugate_right=True, dtype=weight.dtype)
        else:
            grad_weight = folded(dz, x_matrix, sign=1, dtype=weight.dtype)
        grad_weight = grad_weight.view(weight.shape)
    return grad_x, grad_weight, bias_sum, threshold_sum


def _through_activation(
    grad: Tensor, saved: Tensor | None, threshold: Tensor | None, for_bias: bool, for_threshold: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    # dz and the gradients of bias and threshold.
    rows, units = grad.shape[2:4]
    if not (grad.stride(4) == 1 and (grad.stride(3) == 2 or units == 1)):
        grad = grad.contiguous()
    dz = (
        grad
        if threshold is None
        else torch.empty((1, 1, rows, units, 2), dtype=grad.dtype, device=grad.device)
    )
    pieces = triton.cdiv(rows, _PIECE)
    sums = dict(dtype=torch.float32, device=grad.device)
    bias_sum = torch.empty((pieces, units, 2), **sums) if for_bias else None
    threshold_sum = torch.empty((pieces, units), **sums) if for_threshold else None
    if grad.numel():
        kernel = _activation_backward_kernel
        with guard(grad):
            kernel[(pieces, triton.cdiv(2 * units, _BLOCK))](
                **pointers(
                    kernel, grad=grad, saved=saved, threshold=_contiguous(threshold),
                    dz=None if threshold is None else dz, bias_sum=bias_sum, threshold_sum=threshold_sum,
                ),
                rows=rows, columns=2 * units, grad_row=grad.stride(2),
                PIECE=_PIECE, ROWS=_ROWS, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return dz, *(None if parts is None else parts.sum(0) for parts in (bias_sum, threshold_sum))


def _matrix(x: Tensor) -> Tensor:
    # […, K, 2] as [1, 1, M, K, 2]; copied only where leading dimensions do not line up.
    return x.reshape(1, 1, x.shape[:-2].numel(), *x.shape[-2:])


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
