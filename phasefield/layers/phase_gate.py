"""A gated unit whose gate is a complex number: its length weighs, its phase turns."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from phasefield_kernels.checks import state_dtype
from phasefield_kernels.pairs import as_complex

from .phase import PhaseLinear, phase_product


def phase_gate(value: Tensor, gate: Tensor) -> Tensor:
    """``v · g / √(1 + |g|²)``: shortened by a factor in [0, 1) and turned by g's phase; smooth where g is 0.

    Both are ``[…, D, 2]``; the result has the wider of their dtypes. A turn of the gates turns the result
    with them: where values and gates come from one input, a turn of it by α turns the result by 2α.
    """
    if torch.compiler.is_compiling():  # a compiler makes few passes of these
        return phase_product(value, gate) * torch.rsqrt(1 + gate.square().sum(-1, keepdim=True))
    return _PhaseGate.apply(value, gate)


class _PhaseGate(torch.autograd.Function):
    """With s = (1 + |g|²)^-½ and d = dL/dy, y = s v g:

    ``dv = s conj(g) d``,     ``e = s conj(v) d``,     ``dg = e − s² Re(conj(g) e) g``

    Autograd would pass over memory more often, and sum pairs, which torch does slowly.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(value, gate)
        product = as_complex(value) * as_complex(gate)
        product.mul_(_scale(gate.to(product.real.dtype)))
        return torch.view_as_real(product).to(torch.promote_types(value.dtype, gate.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        dtypes = [tensor.dtype for tensor in ctx.saved_tensors]
        value, gate = (tensor.to(state_dtype(grad)) for tensor in ctx.saved_tensors)
        scale, v, g = _scale(gate), as_complex(value), as_complex(gate)
        scaled = (as_complex(grad) * scale).conj_physical_()
        # conj(a) b = conj(a conj(b)): numbers are conjugated in place, not their factors beforehand.
        grad_value = torch.view_as_real((g * scaled).conj_physical_())
        e = scaled.mul_(v).conj_physical_()
        along = _sum_of_pairs(gate * torch.view_as_real(e)).mul_(scale.square_())
        grad_gate = torch.view_as_real(e.sub_(g * along))
        return grad_value.to(dtypes[0]), grad_gate.to(dtypes[1])


def _scale(gate: Tensor) -> Tensor:
    return _sum_of_pairs(gate.square()).add_(1).rsqrt_()


def _sum_of_pairs(x: Tensor) -> Tensor:
    return x[..., 0] + x[..., 1]


class PhaseGLU(nn.Module):
    """A gated linear unit on complex numbers: ``y = W_o (v · g / √(1 + |g|²))``, ``[v; g] = W x + b``.

    The gate sets both the magnitude and the rotation of what passes, without sine or cosine. Not equivariant:
    a turn of the input by α turns the output by 2α (with b at 0, where it starts), as each value meets a gate
    of the same input.

    Args:
        dim: complex channels of input and output.
        hidden_dim: of values and gates; dim if None.
        gain: of the output weights' first length, see :class:`PhaseLinear`.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, *, gain: float = 1.0) -> None:
        super().__init__()
        hidden_dim = dim if hidden_dim is None else hidden_dim
        self.input = PhaseLinear(dim, 2 * hidden_dim)
        self.output = PhaseLinear(hidden_dim, dim, gain=gain)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[…, dim, 2]`` → the same; a residual is added last."""
        value, gate = self.input(x).chunk(2, dim=-2)
        return self.output(phase_gate(value, gate), residual)
