"""phase_norm in PyTorch: a block of rows at a time, all its passes while it is in the cache.

Sums over a row are matrix-vector products, which torch does faster than reductions; weights and thresholds
act on a row as the 2D floats it is.
"""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..phase_linear.reference import EPSILON

_BLOCK = 1 << 15  # complex numbers at a time: 256 KB in float32, and a few times that in scratch


def forward(x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float) -> Tensor:
    """Values, in x's dtype."""
    real = state_dtype(x)
    x_rows = x.reshape(x.shape[:-2].numel(), *x.shape[-2:])
    y = torch.empty(x_rows.shape, dtype=x.dtype, device=x.device)
    scratch = _Scratch(x_rows, weight, threshold, eps)
    for begin, end in scratch.blocks:
        z = y[begin:end] if x.dtype == real else scratch.z[: end - begin]
        scratch.normalise(x_rows[begin:end], out=z)
        if threshold is not None:
            scale = scratch.activation(z)
            z.mul_(scale.unsqueeze(-1))
        if x.dtype != real:
            y[begin:end] = z
    return y.view(x.shape)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to x, weight and threshold.

    A row is z_d = w_d r x_d with r = (mean |x|² + eps)^-½, then y_d = s_d z_d with s = relu(1 + t/m) and
    m = √(|z|² + ε²). With g = dL/dy and ⟨a, b⟩ = Re(conj(a) b), a number for each d:
      dz = s g − t/m³ ⟨z, g⟩ z,     dt = Σ ⟨z, g⟩/m    where m + t > 0, else 0    (dz = g without modReLU)
      dw = Σ r ⟨x, dz⟩,     dx = r (w dz − c x),     c = r² mean_d w_d ⟨x_d, dz_d⟩    (Σ over rows)
    """
    real = state_dtype(x)
    width = x.shape[-2]
    x_rows = x.reshape(x.shape[:-2].numel(), *x.shape[-2:])
    grad_rows = grad.reshape(x_rows.shape)
    grad_x = torch.empty(x_rows.shape, dtype=x.dtype, device=x.device)
    grad_weight = torch.zeros(width, dtype=real, device=x.device)
    grad_threshold = None if threshold is None else torch.zeros_like(grad_weight)
    scratch = _Scratch(x_rows, weight, threshold, eps)
    for begin, end in scratch.blocks:
        block, g = x_rows[begin:end].to(real), grad_rows[begin:end].to(real)
        z, product = scratch.z[: end - begin], scratch.product[: end - begin]
        inverse = scratch.normalise(block, out=z)
        if threshold is None:
            dz = g
        else:
            scale, over_modulus = scratch.activation(z), scratch.over_modulus[: end - begin]
            along = scratch.inner(z, g).mul_(over_modulus).mul_(scale > 0)
            grad_threshold += along.sum(0)
            bent = along.mul_(over_modulus.square_()).mul_(scratch.threshold)
            # In place of z, which is not needed any more: s g − bent z.
            dz = z.mul_(bent.unsqueeze(-1)).neg_().addcmul_(g, scale.unsqueeze(-1))
        along = scratch.inner(block, dz)
        grad_weight += torch.mv(along.T, inverse)
        c = torch.mv(along, scratch.weight).mul_(inverse.square()).div_(width)
        target = grad_x[begin:end] if x.dtype == real else product
        flat = torch.mul(dz.flatten(1), scratch.pair_weight, out=target.flatten(1))
        flat.addcmul_(block.flatten(1), c.unsqueeze(1), value=-1).mul_(inverse.unsqueeze(1))
        if x.dtype != real:
            grad_x[begin:end] = product
    return grad_x.view(x.shape), grad_weight, grad_threshold


class _Scratch:
    """Parameters in the dtype of sums, and tensors of one block that every block uses again.

    Attributes:
        blocks: where each block begins and ends.
        z, product: a complex number each.
        over_modulus: 1/m of the last block that :meth:`activation` saw.
        pair_weight: the weight of each of a row's 2D floats.
    """

    def __init__(self, x: Tensor, weight: Tensor, threshold: Tensor | None, eps: float) -> None:
        count, width = x.shape[:2]
        real = state_dtype(x)
        step = max(1, _BLOCK // max(1, width))
        self.blocks = [(begin, min(begin + step, count)) for begin in range(0, count, step)]
        shape = (min(count, step), width)
        self.weight = weight.to(real)
        self.pair_weight = self.weight.repeat_interleave(2)
        self.threshold = threshold
        self.z, self.product = torch.empty((2, *shape, 2), dtype=real, device=x.device)
        self.over_modulus, self._scale, self._along = torch.empty((3, *shape), dtype=real, device=x.device)
        self._eps = eps

    def normalise(self, x: Tensor, out: Tensor) -> Tensor:
        """``w r x`` of a block into ``out``; returns r, a number a row."""
        flat = x.flatten(1)
        lengths = torch.linalg.vector_norm(flat, dim=1, dtype=out.dtype)
        inverse = lengths.square_().div_(max(1, x.shape[1])).add_(self._eps).rsqrt_()
        torch.mul(flat, self.pair_weight, out=out.flatten(1)).mul_(inverse.unsqueeze(1))
        return inverse

    def activation(self, z: Tensor) -> Tensor:
        """``relu(1 + t/m)`` of a block; overwritten by the next call."""
        over_modulus, scale = self.over_modulus[: z.shape[0]], self._scale[: z.shape[0]]
        squares = torch.mul(z, z, out=self.product[: z.shape[0]])
        torch.add(squares[..., 0], squares[..., 1], out=over_modulus).add_(EPSILON**2).rsqrt_()
        return torch.mul(over_modulus, self.threshold, out=scale).add_(1).clamp_min_(0)

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """``Re(conj(a) b)`` of a block; overwritten by the next call."""
        product = torch.mul(a, b, out=self.product[: a.shape[0]])
        return torch.add(product[..., 0], product[..., 1], out=self._along[: a.shape[0]])
