"""One decoding step of hebbian_scan in Triton: every head's update and read in one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import guard
from ..rows import pointers, rows_contiguous
from .fused_tiles import inner, load, scaled, store

_TILE = 2048  # floats of a state that a program owns: 16 a thread


@triton.jit
def step_kernel(
    q_ptr, k_ptr, v_ptr, decay_ptr, beta_ptr, state_ptr, y_ptr,
    q_strides, k_strides, v_strides, decay_strides, beta_strides, heads, rows, columns,
    DELTA: tl.constexpr, COMPLEX: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS rows of one head's state: read once, written once, and read by the query in between."""
    batch = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    SIZE: tl.constexpr = 2 if COMPLEX else 1
    one = tl.arange(0, 1) < 1
    nothing = tl.zeros((1,), tl.int64)
    q = load(
        q_ptr, nothing + batch * q_strides[0] + head * q_strides[1], one, 0, columns, BLOCK_COLUMNS, COMPLEX
    )
    k = load(
        k_ptr, nothing + batch * k_strides[0] + head * k_strides[1], one, 0, columns, BLOCK_COLUMNS, COMPLEX
    )
    v_at = batch * v_strides[0] + head * v_strides[1] + row * SIZE
    v = load(v_ptr, v_at, row < rows, 0, 1, 1, COMPLEX)
    gamma = 1.0
    if decay_ptr is not None:
        decay_at = batch * decay_strides[0] + head * decay_strides[1]
        gamma = tl.exp(tl.load(decay_ptr + decay_at).to(tl.float32))
    beta = 1.0
    if beta_ptr is not None:
        beta = tl.load(beta_ptr + batch * beta_strides[0] + head * beta_strides[1]).to(tl.float32)
    at = ((batch * heads + head) * rows + row) * columns * SIZE
    S = scaled(load(state_ptr, at, row < rows, 0, columns, BLOCK_COLUMNS, COMPLEX), gamma, COMPLEX)
    q = scaled(q, 1.0, COMPLEX)
    k = scaled(k, 1.0, COMPLEX)
    v = scaled(v, 1.0, COMPLEX)
    if COMPLEX:
        u = v[0]
        u_imaginary = v[1]
        if DELTA:
            u -= tl.sum(S[0] * k[0] - S[1] * k[1], 1)[:, None]
            u_imaginary -= tl.sum(S[0] * k[1] + S[1] * k[0], 1)[:, None]
        u *= beta
        u_imaginary *= beta
        S = (S[0] + u * k[0] + u_imaginary * k[1], S[1] + u_imaginary * k[0] - u * k[1])
        y = (
            tl.sum(S[0] * q[0] - S[1] * q[1], 1)[:, None],
            tl.sum(S[0] * q[1] + S[1] * q[0], 1)[:, None],
        )
    else:
        u = v[0]
        if DELTA:
            u -= inner(S, k, COMPLEX)[:, None]
        S = (S[0] + beta * u * k[0],)
        y = (inner(S, q, COMPLEX)[:, None],)
    store(state_ptr, at, row < rows, 0, columns, S, BLOCK_COLUMNS, COMPLEX)
    y_at = ((batch * heads + head) * rows + row) * SIZE
    store(y_ptr, y_at, row < rows, 0, 1, y, 1, COMPLEX)


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    """One step; the state is overwritten by the program that read it, the output returned."""
    batch, heads, columns = q.shape[:3]
    rows, is_complex = v.shape[2], q.ndim == 4
    q, k, v = (rows_contiguous(t, 2) for t in (q, k, v))
    y = torch.empty(v.shape, dtype=q.dtype, device=q.device)
    if log_decay is not None:
        log_decay = log_decay.expand(batch, heads)
    block_columns = triton.next_power_of_2(columns)
    block_rows = min(triton.next_power_of_2(rows), max(1, _TILE // (block_columns * (1 + is_complex))))
    if q.shape[:2].numel():
        tensors = dict(q=q, k=k, v=v, decay=log_decay, beta=beta)
        strides = {f"{n}_strides": (0, 0) if t is None else t.stride()[:2] for n, t in tensors.items()}
        with guard(q):
            step_kernel[(batch * heads, triton.cdiv(rows, block_rows))](
                **pointers(step_kernel, **tensors, state=state, y=y), **strides,
                heads=heads, rows=rows, columns=columns, DELTA=delta, COMPLEX=is_complex,
                BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return y
