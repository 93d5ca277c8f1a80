"""The second of a chunked scan's three stages: carry states over chunk boundaries."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


@triton.jit
def _carry_kernel(
    product_ptr, local_ptr, start_ptr, before_ptr, last_ptr, chunks, width, bound,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # One program owns BLOCK lanes of one sequence and walks over its chunks; a complex number is two
    # neighbouring floats, so the lanes' addresses are the even ones and the imaginary part is one up.
    size = 2 if COMPLEX else 1
    batch = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)) * size
    lanes = column < width * size
    state = tl.zeros((BLOCK,), tl.float32)
    state_imaginary = tl.zeros((BLOCK,), tl.float32)
    if start_ptr is not None:
        start = start_ptr + batch * width * size + column
        state = tl.load(start, mask=lanes, other=0.0)
        if COMPLEX:
            state_imaginary = tl.load(start + 1, mask=lanes, other=0.0)
    row = batch * chunks
    step = 1
    if REVERSE:
        row += chunks - 1
        step = -1
    for _ in range(0, chunks):
        at = row * width * size + column
        tl.store(before_ptr + at, state, mask=lanes)
        p = tl.load(product_ptr + at, mask=lanes, other=0.0)
        s = tl.load(local_ptr + at, mask=lanes, other=0.0)
        if COMPLEX:
            tl.store(before_ptr + at + 1, state_imaginary, mask=lanes)
            p_imaginary = tl.load(product_ptr + at + 1, mask=lanes, other=0.0)
            s_imaginary = tl.load(local_ptr + at + 1, mask=lanes, other=0.0)
            real = p * state - p_imaginary * state_imaginary + s
            state_imaginary = p * state_imaginary + p_imaginary * state + s_imaginary
            state = real
        else:
            state = tl.minimum(tl.maximum(p * state + s, -bound), bound)
        row += step
    last = last_ptr + batch * width * size + column
    tl.store(last, state, mask=lanes)
    if COMPLEX:
        tl.store(last + 1, state_imaginary, mask=lanes)


def carry(
    product: Tensor,
    local: Tensor,
    start: Tensor | None,
    *,
    reverse: bool = False,
    bound: float = float("inf"),
    before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``s_{k+1} = product_k · s_k + local_k`` over the chunks k of each sequence.

    Args:
        product, local: ``[B, chunks, D]`` float32, or ``[B, chunks, D, 2]`` complex; contiguous.
        start: ``[B, D(, 2)]`` float32, zeros if None.
        reverse: from the last chunk to the first.
        bound: real states are clamped to ``[-bound, bound]``.
        before: contiguous memory, like product, for the result of that name.

    Returns:
        ``(before, last)``: the state that enters each chunk, and the one that leaves the last.
    """
    batch, chunks, width = product.shape[:3]
    before = torch.empty_like(product) if before is None else before
    last = torch.empty_like(product[:, 0])
    grid = (batch, triton.cdiv(width, _BLOCK))
    _carry_kernel[grid](
        product, local, start, before, last, chunks, width, bound,
        COMPLEX=product.ndim == 4, REVERSE=reverse, BLOCK=_BLOCK, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return before, last
