"""The cross-entropy of a large vocabulary without its logits."""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from phasefield_kernels.autocast import under_autocast

_BLOCK = 1 << 23
"""Logits held at a time: 32 MB in float32. Weights are read once a block, so that small blocks cost time."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of targets under ``softmax(hidden · weightᵀ)``, in nats.

    Logits exist for a block of rows at a time. Where gradients are wanted they are formed in the same pass (a
    block's logits become their own gradient in place), so that the backward only scales them: three matrix
    products in all, as with full logits, which at 8 × 256 tokens of 50,257 symbols would take 412 MB and as
    much again for their gradient. On a GPU, Liger Kernel's fused loss runs where it is installed.

    Logits and sums are float32 (float64 for float64); under autocast the matrix products read its dtype.

    Args:
        hidden: ``[…, D]``, floating point.
        weight: ``[V, D]``.
        targets: ``[…]``, int64, each at least 0 and below V.

    Returns:
        A scalar, float32 (float64 for float64).

    Raises:
        ValueError: a shape or dtype that does not fit, or no targets.
    """
    if hidden.shape[:-1] != targets.shape or weight.shape[1:] != hidden.shape[-1:]:
        raise ValueError(
            f"hidden has shape {list(hidden.shape)}, weight {list(weight.shape)} and targets "
            f"{list(targets.shape)}; allowed are [..., D], [V, D] and [...]."
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets has dtype {str(targets.dtype).removeprefix('torch.')}; allowed is int64.")
    if targets.numel() == 0:
        raise ValueError("targets is empty; a mean needs at least one.")
    rows = under_autocast(hidden.reshape(-1, hidden.shape[-1]))
    if rows.is_cuda and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        return LigerFusedLinearCrossEntropyLoss()(weight.to(rows.dtype), rows, targets.reshape(-1))
    wanted = torch.is_grad_enabled()
    for_hidden, for_weight = wanted and hidden.requires_grad, wanted and weight.requires_grad
    return _LinearCrossEntropy.apply(rows, weight, targets.reshape(-1), for_hidden, for_weight)


class _LinearCrossEntropy(torch.autograd.Function):
    """With logits l = W h, p = softmax(l) and e_y the target's unit vector, N rows:

    ``L = Σ (log Σ exp l − l_y) / N``,     ``dl = (p − e_y) / N``,     ``dh = Wᵀ dl``,     ``dW = Σ dl hᵀ``
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, for_hidden: bool, for_weight: bool
    ) -> Tensor:
        count, symbols = hidden.shape[0], weight.shape[0]
        real = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        columns = weight.detach().to(hidden.dtype)
        hidden = hidden.detach()
        size = max(1, _BLOCK // symbols)
        buffer = torch.empty((min(size, count), symbols), dtype=real, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=real, device=hidden.device) if for_weight else None
        total = torch.zeros((), dtype=real, device=hidden.device)
        for begin in range(0, count, size):
            rows = hidden[begin : begin + size]
            target = targets[begin : begin + size].unsqueeze(1)
            logits = buffer[: rows.shape[0]]
            if rows.dtype == real:
                torch.mm(rows, columns.T, out=logits)
            else:
                logits.copy_(torch.mm(rows, columns.T))
            logits -= logits.amax(1, keepdim=True)
            picked = logits.gather(1, target)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - picked).sum()
            if not (for_hidden or for_weight):
                continue
            logits.div_(sums).scatter_add_(1, target, picked.new_full((), -1.0).expand_as(picked))
            gradient = logits.div_(count).to(rows.dtype)
            if for_hidden:
                torch.mm(gradient, columns, out=grad_hidden[begin : begin + size])
            if for_weight and rows.dtype == real:
                grad_weight.addmm_(gradient.T, rows)
            elif for_weight:
                grad_weight += torch.mm(gradient.T, rows)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Any, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        for_hidden = None if grad_hidden is None else (grad_hidden * grad).to(grad_hidden.dtype)
        for_weight = None if grad_weight is None else (grad_weight * grad).to(ctx.weight_dtype)
        return for_hidden, for_weight, None, None, None
