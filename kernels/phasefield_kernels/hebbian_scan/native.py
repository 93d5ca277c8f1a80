"""hebbian_scan in C (native.c): a decoding step; and whole sequences by Hebb's rule, with their gradients.

A whole sequence runs step by step, which takes fewer operations than the chunks of matrix products that
:mod:`.blocked` makes of it, on a state that stays in the cache. With ``scan(a, b, c)`` for
``S_t = γ_t S_{t-1} + a_t b_tᴴ``, ``y_t = S_t c_t`` and u = β v it is

    y = scan(u, k, q),     dq = scan(k, u, dy), which is that of Sᴴ,

and with the adjoint's recurrence ``dS_t = γ_{t+1} dS_{t+1} + dy_t q_tᴴ``, from dL/d(final_state) backward in
time,

    du = dS k = scan(dy, q, k),     dk = dSᴴ u = scan(q, dy, u),

so that no state is saved, nor written to memory but those at the ends.
"""

import torch
from torch import Tensor

from ..native import call, plain, side_by_side
from .inputs import Inputs

OP = "hebbian_scan"
"""Where the native form is, of the complex scan as well."""

_COST = 0.3  # nanoseconds a number of the state
_SCAN_COST = 0.06  # nanoseconds a step and real product of the state
_SEGMENT = 64  # steps between the marks of native.c: more cost accuracy, fewer memory


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    batch, heads, columns = q.shape[:3]
    if log_decay is not None and log_decay.ndim == 1:
        log_decay = log_decay.expand(batch, heads)
    y = torch.empty(v.shape)
    sizes = (batch * heads, v.shape[2], columns, q.ndim == 4, delta)
    tensors = (plain(q), plain(k), plain(v), plain(log_decay), plain(beta), state, y)
    call(OP, "hebbian_scan_step", batch * heads, _COST * state.numel(), sizes, tensors)
    return y if y.dtype == q.dtype else y.to(q.dtype)


def forward(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Values by Hebb's rule; nothing is kept."""
    q, k, v = (side_by_side(tensor, inputs.q.ndim - 3) for tensor in inputs[:3])
    u = _by_head(v, inputs.beta)
    y, final = _scan(u, k, q, decay_of(inputs), inputs.initial_state, inputs.cu_seqlens)
    return y.to(inputs.q.dtype), final, final.new_empty(0)


def backward(
    grad_y: Tensor, grad_final: Tensor, _: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients by Hebb's rule."""
    log_decay, beta, initial_state, cu_seqlens, _ = inputs[3:]
    grad_y, q, k, v = (side_by_side(tensor, inputs.q.ndim - 3) for tensor in (grad_y, *inputs[:3]))
    decay, u = decay_of(inputs), _by_head(v, beta)
    marks = grad_decay = grad_beta = None
    if log_decay is not None:
        rows, length = grad_final.shape[0], q.shape[1]
        count = rows * -(-length // _SEGMENT) if cu_seqlens is None else length // _SEGMENT + rows
        marks = torch.empty(count, *grad_final.shape[1:])
        grad_decay = torch.empty(q.shape[:3])
    rest = (decay, grad_final, cu_seqlens)
    grad_q, _ = _scan(k, u, grad_y, decay, initial_state, cu_seqlens, transposed=True, marks=marks)
    grad_u, grad_initial = _scan(grad_y, q, k, *rest, reverse=True)
    grad_k, _ = _scan(
        q, grad_y, u, *rest, reverse=True, transposed=True, marks=marks, decays=(k, grad_q, grad_decay)
    )
    if beta is not None:
        grad_beta = torch.linalg.vecdot(v.flatten(3), grad_u.flatten(3))
    if log_decay is not None and log_decay.ndim == 1:
        grad_decay = grad_decay.sum((0, 1))
    grads = (grad_q, grad_k, _by_head(grad_u, beta))
    return *(grad.to(inputs.q.dtype) for grad in grads), grad_decay, grad_beta, grad_initial


def _scan(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    decay: Tensor | None,
    start: Tensor | None,
    cu_seqlens: Tensor | None,
    *,
    reverse: bool = False,
    transposed: bool = False,
    marks: Tensor | None = None,
    decays: tuple[Tensor, Tensor, Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """``(y, last state)``, from the first step or ``reverse`` from the last.

    Args:
        transposed: the states in memory are Sᴴ.
        marks: room for states on the way, which the scan of dq leaves and that of dk reads.
        decays: for dk's, k, dq and where to put d(log γ), or None.
    """
    batch, length, heads, width = a.shape[:4]
    columns, is_complex = b.shape[3], a.ndim == 5
    rows = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    inner = (columns, width) if transposed else (width, columns)
    y, last = torch.empty(a.shape), torch.empty(rows, heads, *inner, *a.shape[4:])
    written, grad_read, grad_decay = decays or (None, None, None)
    strides = [0 if t is None else t.stride(axis) for t in (a, b, c, decay, written) for axis in range(3)]
    sizes = (rows, heads, length, width, columns, is_complex, reverse, transposed, _SEGMENT, *strides)
    offsets = None if cu_seqlens is None else cu_seqlens.long().contiguous()
    tensors = (a, b, c, decay, plain(start), offsets, y, last, marks, written, grad_read, grad_decay)
    cost = _SCAN_COST * a.numel() * columns * (2 if is_complex else 1)
    call(OP, "hebbian_scan", rows * heads, cost, sizes, tensors)
    return y, last


def decay_of(inputs: Inputs) -> Tensor | None:
    """γ ``[B, T, H]`` in float64, as the kernels take it."""
    return None if inputs.log_decay is None else inputs.log_decay.double().exp().expand(inputs.q.shape[:3])


def _by_head(tokens: Tensor, factor: Tensor | None) -> Tensor:
    # Tokens [B, T, H, V(, 2)] times a number of each head.
    return tokens if factor is None else tokens * factor.float()[(..., *[None] * (tokens.ndim - 3))]
