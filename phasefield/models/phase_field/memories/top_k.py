"""Reading the k best of many slots, a block of queries at a time."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_BLOCK = 1 << 20
"""Scores held at a time, 4 MB in float32."""


def read_top_k(queries: Tensor, keys: Tensor, values: Tensor, sharpness: Tensor, k: int) -> Tensor:
    """``Σ_n softmax_n(sharpness · ⟨q, key_n⟩) value_n`` over the k slots of the largest products.

    Scores exist for a block of queries at a time, forward and backward, and values are never gathered: a
    block's weights, zero but for k a row, are multiplied with all of them. Kept for the backward are k
    scores and their slots a query.

    Args:
        queries: ``[R, D]``.
        keys: ``[M, D]``.
        values: ``[M, E]``.
        sharpness: a scalar tensor.
        k: at least 1; all slots where there are fewer.

    Returns:
        ``[R, E]``.
    """
    return _ReadTopK.apply(queries, keys.to(queries.dtype), values.to(queries.dtype), sharpness, k)


class _ReadTopK(torch.autograd.Function):
    """With p = softmax(s ⟨q, K⟩) over the chosen, y = Σ p v and g = dL/dy:

    ``dv = Σ p g``,   ``dσ = p (⟨v, g⟩ − Σ p ⟨v, g⟩)``,   ``dq = s Σ dσ K``,   ``dK = s Σ dσ q``,
    ``ds = Σ dσ ⟨q, K⟩``    (which slots are chosen is constant)
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, queries: Tensor, keys: Tensor, values: Tensor, sharpness: Tensor, k: int
    ) -> Tensor:
        rows, slots = queries.shape[0], keys.shape[0]
        k = min(k, slots)
        read = queries.new_empty(rows, values.shape[1])
        products = queries.new_empty(rows, k)
        chosen = torch.empty(rows, k, dtype=torch.int64, device=queries.device)
        for block in _blocks(rows, slots):
            torch.topk(queries[block] @ keys.T, k, dim=1, sorted=False, out=(products[block], chosen[block]))
            weights = (sharpness * products[block]).softmax(1)
            torch.mm(_spread(weights, chosen[block], slots), values, out=read[block])
        ctx.save_for_backward(queries, keys, values, sharpness, products, chosen)
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, sharpness, products, chosen = ctx.saved_tensors
        slots = keys.shape[0]
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        grad_values, grad_sharpness = torch.zeros_like(values), torch.zeros_like(sharpness)
        for block in _blocks(queries.shape[0], slots):
            g, places = grad[block], chosen[block]
            weights = (sharpness * products[block]).softmax(1)
            grad_values.addmm_(_spread(weights, places, slots).T, g)
            along = (g @ values.T).gather(1, places)
            d_score = weights * (along - (weights * along).sum(1, keepdim=True))
            grad_sharpness += (d_score * products[block]).sum()
            spread = _spread(sharpness * d_score, places, slots)
            torch.mm(spread, keys, out=grad_queries[block])
            grad_keys.addmm_(spread.T, queries[block])
        return grad_queries, grad_keys, grad_values, grad_sharpness, None


def _blocks(rows: int, slots: int) -> list[slice]:
    size = max(1, _BLOCK // max(1, slots))
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def _spread(weights: Tensor, places: Tensor, slots: int) -> Tensor:
    """Weights ``[R, k]`` at their places in rows of zeros, ``[R, slots]``."""
    return weights.new_zeros(weights.shape[0], slots).scatter_(1, places, weights)
