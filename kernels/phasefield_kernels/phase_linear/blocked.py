"""phase_linear in fast PyTorch: torch's complex products, and a few passes over rows still in the cache.

float32 and float64 are multiplied through ``view_as_complex``, without copies. bfloat16, which torch's
complex types lack, goes through the structured real form, twice as fast here; with a threshold it goes
through float32, because a product rounded to bfloat16 falls on the wrong side of the threshold too often.
float16 always does: CPUs multiply it ten times slower than float32.

Bias, modReLU and residual are added to a block of rows at a time, in place, right after its product: as
whole-tensor expressions they cost a third of the product itself.
"""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..complex_product.views import folded, interleaved, matmul, structured
from ..pairs import as_complex
from .reference import EPSILON

_BLOCK = 1 << 19  # complex numbers in the passes at a time: 4 MB in complex64, and as much in scratch


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor | None,
    residual: Tensor | None,
    keep: bool,
    algorithm: str,
) -> tuple[Tensor, Tensor | None]:
    """``(y, pre-activations)``, the latter in the state's dtype, if asked for and there is a threshold."""
    real = state_dtype(x)
    rows, units = x.shape[:-2].numel(), weight.shape[0]
    x, out_shape, dtype = x.reshape(rows, *x.shape[-2:]), (*x.shape[:-2], units, 2), x.dtype
    residual = None if residual is None else residual.reshape(rows, units, 2)
    if dtype == torch.bfloat16 and threshold is None and algorithm == "direct":
        y = torch.mm(interleaved(x), structured(weight.to(dtype)).T).view(rows, units, 2)
        for begin, end in _blocks(rows, units) if bias is not None or residual is not None else ():
            block = y[begin:end].float()
            _add(block, bias, None if residual is None else residual[begin:end])
            y[begin:end] = block
        return y.view(out_shape), None
    z = product(x, weight, algorithm)
    direct = threshold is None and dtype == real
    y = z if direct else torch.empty((rows, units, 2), dtype=dtype, device=x.device)
    scratch = _Scratch(z)
    for begin, end in _blocks(rows, units):
        value = z[begin:end]
        _add(value, bias, None)
        if threshold is not None:
            scale = scratch.scale(value, threshold)
            target = y[begin:end] if dtype == real else scratch.pairs[: end - begin]
            torch.mul(torch.view_as_complex(value), scale, out=torch.view_as_complex(target))
            value = target
        if residual is not None:
            value += residual[begin:end]
        if dtype != real:
            y[begin:end] = value
    saved = z.view(out_shape) if keep and threshold is not None else None
    return y.view(out_shape), saved


def product(x: Tensor, weight: Tensor, algorithm: str) -> Tensor:
    """``W x`` of rows x ``[rows, K, 2]`` in the state's dtype, ``[rows, N, 2]``."""
    left = as_complex(x)
    right = as_complex(weight.to(x.dtype).to(state_dtype(x))).T
    z = torch.empty((x.shape[0], weight.shape[0]), dtype=left.dtype, device=x.device)
    matmul(left, right, algorithm, out=z)
    return torch.view_as_real(z)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    threshold: Tensor | None,
    needs: tuple[bool, bool, bool, bool],
    algorithm: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, weight, bias and threshold, those that are needed.

    With z = W x + b, m = √(|z|² + ε²), s = relu(1 + t/m) and g = dL/dy:
      dz = s g − t/m³ Re(conj(z) g) z,     dt = Σ Re(conj(z) g)/m    where m + t > 0, else 0
      db = Σ dz,     dx = Wᴴ dz,     dW = Σ dz xᴴ    (sums over rows); without modReLU dz = g
    """
    real = state_dtype(x)
    rows, units = x.shape[:-2].numel(), weight.shape[0]
    dz = grad.reshape(rows, units, 2)
    for_x, for_weight, for_bias, for_threshold = needs
    grad_threshold = None
    if threshold is not None:
        dz, grad_threshold = _through_activation(dz, saved.view(rows, units, 2), threshold, real)
    grad_bias = dz.sum(0, dtype=real) if for_bias else None
    products = through_product(dz, x, weight, for_x, for_weight, algorithm, owned=threshold is not None)
    return *products, grad_bias, grad_threshold if for_threshold else None


def through_product(
    dz: Tensor, x: Tensor, weight: Tensor, for_x: bool, for_weight: bool, algorithm: str, owned: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to x and weight from ``dz [rows, N, 2]``, which is overwritten where it is ``owned``."""
    real, dtype = state_dtype(x), x.dtype
    x_rows = x.reshape(dz.shape[0], *x.shape[-2:])
    grad_x = grad_weight = None
    if dtype == torch.bfloat16 and algorithm == "direct":
        dz = interleaved(dz.to(dtype))
        if for_x:
            grad_x = torch.mm(dz, structured(weight.to(dtype)))
        if for_weight:
            grad_weight = folded(torch.mm(dz.T, interleaved(x_rows)).float(), 1).to(weight.dtype)
    else:
        dz = as_complex(dz)
        if for_x:
            w = as_complex(weight.to(dtype).to(real)).conj_physical()
            grad_x = torch.view_as_real(matmul(dz, w, algorithm)).to(dtype)
        if for_weight:
            # dW = dzᵀ conj(x) = conj(conj(dz)ᵀ x): conjugated is what is there to be overwritten, or smaller.
            factor = as_complex(x_rows)
            if owned or dz.shape[1] <= factor.shape[1]:
                dz = dz.conj_physical_() if owned else dz.conj_physical()
                dw = matmul(dz.T, factor, algorithm).conj_physical_()
            else:
                dw = matmul(dz.T, factor.conj_physical(), algorithm)
            grad_weight = torch.view_as_real(dw).to(weight.dtype)
    return None if grad_x is None else grad_x.view(x.shape), grad_weight


def _through_activation(
    grad: Tensor, z: Tensor, threshold: Tensor, real: torch.dtype
) -> tuple[Tensor, Tensor]:
    # dz and the threshold's gradient.
    rows, units, _ = z.shape
    dz = torch.empty((rows, units, 2), dtype=real, device=z.device)
    grad_threshold = torch.zeros(units, dtype=real, device=z.device)
    scratch = _Scratch(z)
    direct = grad.dtype == real and grad.stride() == (2 * units, 2, 1)
    for begin, end in _blocks(rows, units):
        block, out = z[begin:end], dz[begin:end]
        g = grad[begin:end] if direct else scratch.pairs[: end - begin].copy_(grad[begin:end])
        scale = scratch.scale(block, threshold)
        inverse, along = scratch.inverse[: end - begin], scratch.along[: end - begin]
        torch.mul(block, g, out=out)
        torch.add(out[..., 0], out[..., 1], out=along)
        along.mul_(inverse).mul_(scale.sign())  # 1 where it is open: a comparison takes five times as long
        grad_threshold += along.sum(0)
        along.mul_(inverse.square_()).mul_(threshold)
        bent = torch.view_as_complex(block) * along
        torch.mul(torch.view_as_complex(g), scale, out=torch.view_as_complex(out))
        out -= torch.view_as_real(bent)
    return dz, grad_threshold


class _Scratch:
    """Tensors of one block, reused by every block: fresh ones would cost page faults.

    Attributes:
        inverse: 1/m of the last block that :meth:`scale` saw.
        along: a real number each.
        pairs: two real numbers each.
    """

    def __init__(self, z: Tensor) -> None:
        rows, units = z.shape[:2]
        shape = (min(rows, _rows_of_block(units)), units)
        self.inverse, self._scale, self.along = torch.empty((3, *shape), dtype=z.dtype, device=z.device)
        self.pairs, self._squares = torch.empty((2, *shape, 2), dtype=z.dtype, device=z.device)

    def scale(self, z: Tensor, threshold: Tensor) -> Tensor:
        """``relu(1 + t/m)`` of a block; overwritten by the next call."""
        inverse, scale = self.inverse[: z.shape[0]], self._scale[: z.shape[0]]
        squares = torch.mul(z, z, out=self._squares[: z.shape[0]])
        torch.add(squares[..., 0], squares[..., 1], out=inverse).add_(EPSILON**2).rsqrt_()
        return torch.mul(inverse, threshold.to(z.dtype), out=scale).add_(1).clamp_min_(0)


def _add(value: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    if bias is not None:
        value += bias
    if residual is not None:
        value += residual


def _rows_of_block(units: int) -> int:
    return max(1, _BLOCK // max(1, units))


def _blocks(rows: int, units: int) -> list[tuple[int, int]]:
    step = _rows_of_block(units)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]
