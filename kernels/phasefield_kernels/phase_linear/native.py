"""phase_linear with torch's products and everything else in C (native.c): one pass after or before them."""

import torch
from torch import Tensor

from ..native import call, plain
from . import blocked

_ROWS = 32  # native.c's ROWS
_FORWARD, _BACKWARD = 1.5, 2.5  # nanoseconds a complex number


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor | None,
    residual: Tensor | None,
    keep: bool,
    algorithm: str,
) -> tuple[Tensor, Tensor | None]:
    """``(y, pre-activations)``, the latter in float32, if asked for and there is a threshold."""
    if threshold is None and (bias is residual is None or x.dtype != torch.float32):
        # Nothing to do, or a product that is faster in two bytes than in four.
        return blocked.forward(x, weight, bias, threshold, residual, keep, algorithm)
    out_shape = (*x.shape[:-2], weight.shape[0], 2)
    z = blocked.product(x.reshape(x.shape[:-2].numel(), *x.shape[-2:]), weight, algorithm)
    y = z if threshold is None else torch.empty(z.shape)
    _run("phase_linear_forward", _FORWARD, z, plain(bias), plain(threshold), plain(residual), y)
    saved = z.view(out_shape) if keep and threshold is not None else None
    return y.view(out_shape).to(x.dtype), saved


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    threshold: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
    algorithm: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, weight, bias and threshold, those that are needed; the mathematics is in blocked.py."""
    if threshold is None:
        return blocked.backward(grad, x, weight, saved, threshold, needs, algorithm)
    for_x, for_weight, for_bias, for_threshold = needs
    rows, units = x.shape[:-2].numel(), weight.shape[0]
    blocks = -(-rows // _ROWS)
    dz = torch.empty(rows, units, 2)
    d_bias, d_threshold = torch.empty(blocks, units, 2), torch.empty(blocks, units)
    written = (None, None, plain(grad), dz, d_bias, d_threshold)
    _run("phase_linear_backward", _BACKWARD, saved.view(rows, units, 2), None, plain(threshold), *written)
    products = blocked.through_product(dz, x, weight, for_x, for_weight, algorithm, owned=True)
    return *products, d_bias.sum(0) if for_bias else None, d_threshold.sum(0) if for_threshold else None


def _run(kernel: str, cost: float, z: Tensor, *tensors: Tensor | None) -> None:
    rows, units = z.shape[:2]
    call("phase_linear", kernel, -(-rows // _ROWS), cost * rows * units, (rows, units), (z, *tensors))
