"""The RMS norm with a backward of its own on a CPU, where torch has the norm as a chain of small ops."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class RMSNorm(nn.RMSNorm):
    """:class:`torch.nn.RMSNorm` over the last axis, with a weight; trained on a CPU in half the time.

    Args:
        dim: of the last axis.
        eps: added to the mean square; the dtype's if None.
    """

    def __init__(self, dim: int, eps: float | None = None) -> None:
        super().__init__(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, dim]`` → the same."""
        own = x.device.type == "cpu" and x.dtype == self.weight.dtype in (torch.float32, torch.float64)
        if not own or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)


class _RMSNorm(torch.autograd.Function):
    """``y = w r x`` with r = (mean x² + eps)^-½; with g = dL/dy and sums over rows Σ:

    ``dw = Σ r x g``,     ``dx = r (w g − c x)``,     ``c = r² mean_d w_d x_d g_d``
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inverse = torch.linalg.vector_norm(rows, dim=1).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(rows, weight, inverse)
        return torch.mul(rows, weight).mul_(inverse.unsqueeze(1)).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        rows = grad.reshape(x.shape)
        along = rows * x
        grad_weight = torch.mv(along.T, inverse)
        c = torch.mv(along, weight).mul_(inverse.square()).div_(x.shape[1])
        grad_x = torch.mul(rows, weight, out=along).addcmul_(x, c.unsqueeze(1), value=-1)
        return grad_x.mul_(inverse.unsqueeze(1)).view(grad.shape), grad_weight, None
