"""aperiodic_scan in Triton: the state in registers, the time loop inside (rows: :mod:`..rows`).

A pointer that is None is an input not given or an output not wanted.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import guard
from ..fused_carry import carry
from ..fused_math import sincos, tanh
from ..phases import radians_from_phase
from ..rows import pointers, row_bounds
from .configs import TIME_LOOP


@triton.jit
def _forward_kernel(
    u_ptr, scale_ptr, phase_ptr, start_ptr, h_ptr, end_ptr, product_ptr, growth_ptr, pending_ptr, offsets_ptr,
    length, width, stride_batch, stride_time, chunks, chunk_length, tolerance,
    STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Reads u and the row's start state; writes h, the end state and, for Newton, the product of the
    # Jacobians over the row (`product`) or the certificate's two growth factors (`growth`).
    # With `pending`, only programs that own a pending lane run.
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lanes = column < width
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    at_row = row * width + column
    if pending_ptr is not None:
        pending = tl.load(pending_ptr + at_row, mask=lanes, other=0)
        if tl.max(pending, 0) == 0:
            return
    c = tl.load(scale_ptr + column, mask=lanes, other=0.0)
    phase = tl.load(phase_ptr + column, mask=lanes, other=0.0)
    h = tl.zeros((BLOCK,), tl.float32)
    if start_ptr is not None:
        h = tl.load(start_ptr + at_row, mask=lanes, other=0.0)
    product = tl.full((BLOCK,), 1.0, tl.float32)
    highest = tl.full((BLOCK,), 1.0, tl.float32)
    # |second derivative of the cell| ≤ 1.54 c² + √5 |c|, times half the error that is tolerated.
    slack = (1.54 * c * c + 2.24 * tl.abs(c)) * (0.5 * tolerance)
    u_at = u_ptr + place * stride_batch + begin * stride_time + column
    at = (place * length + begin) * width + column
    time = begin
    for _ in range(0, end - begin, STEPS):
        loaded = ()
        for s in tl.static_range(STEPS):
            loaded = loaded + (tl.load(u_at, mask=lanes & (time + s < end), other=0.0),)
            u_at += stride_time
        for s in tl.static_range(STEPS):
            inside = time + s < end
            sine, cosine = sincos(phase + h)
            new = tanh(loaded[s].to(tl.float32) + c * h * cosine)
            if product_ptr is not None:
                jacobian = (1.0 - new * new) * c * (cosine - h * sine)
                if growth_ptr is not None:
                    jacobian = tl.abs(jacobian) + slack
                product = tl.where(inside, product * jacobian, product)
                highest = tl.maximum(highest, product)
            h = tl.where(inside, new, h)
            if h_ptr is not None:
                tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=lanes & inside)
            at += width
        time += STEPS
    tl.store(end_ptr + at_row, h, mask=lanes)
    if product_ptr is not None:
        tl.store(product_ptr + at_row, product, mask=lanes)
    if growth_ptr is not None:
        tl.store(growth_ptr + at_row, highest, mask=lanes)


@triton.jit
def _backward_kernel(
    grad_h_ptr, h_ptr, scale_ptr, phase_ptr, start_ptr, carry_in_ptr,
    grad_u_ptr, grad_scale_ptr, carry_out_ptr, product_ptr, offsets_ptr,
    length, width, stride_batch, stride_time, chunks, chunk_length,
    STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Backward in time, with p_t = φ + h_{t-1} and λ_t the whole gradient of h_t:
    #   λ_t = g_t + carry,      d_t = λ_t (1 − h_t²) = du_t,      dc = Σ d_t h_{t-1} cos p_t
    #   carry ← d_t c (cos p_t − h_{t-1} sin p_t)
    # The carry into a sequence's last step is dL/d(final_state); out of its first, d(initial_state).
    # A chunk's carry out is linear in its carry in: `product` is the factor, for the chunked form.
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lanes = column < width
    row, sequence, place, first, begin, end = row_bounds(offsets_ptr, length, chunks, chunk_length)
    at_row = row * width + column
    c = tl.load(scale_ptr + column, mask=lanes, other=0.0)
    phase = tl.load(phase_ptr + column, mask=lanes, other=0.0)
    start = tl.zeros((BLOCK,), tl.float32)
    if start_ptr is not None:
        start = tl.load(start_ptr + sequence * width + column, mask=lanes, other=0.0)
    carry = tl.zeros((BLOCK,), tl.float32)
    if carry_in_ptr is not None:
        carry = tl.load(carry_in_ptr + at_row, mask=lanes, other=0.0)
    product = tl.full((BLOCK,), 1.0, tl.float32)
    grad_c = tl.zeros((BLOCK,), tl.float32)
    time = end - 1
    at = (place * length + time) * width + column
    grad_at = grad_h_ptr + place * stride_batch + time * stride_time + column
    h = tl.load(h_ptr + at, mask=lanes & (time >= begin), other=0.0).to(tl.float32)
    for _ in range(0, end - begin, STEPS):
        grads = ()
        befores = ()
        for s in tl.static_range(STEPS):
            inside = lanes & (time - s >= begin)
            grads = grads + (tl.load(grad_at, mask=inside, other=0.0),)
            befores = befores + (
                tl.load(h_ptr + at - (s + 1) * width, mask=inside & (time - s > first), other=0.0),
            )
            grad_at -= stride_time
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            before = tl.where(time - s == first, start, befores[s].to(tl.float32))
            sine, cosine = sincos(phase + before)
            slope = 1.0 - h * h
            d = (grads[s].to(tl.float32) + carry) * slope
            gain = c * (cosine - before * sine)
            grad_c += tl.where(inside, d * before * cosine, 0.0)
            carry = tl.where(inside, d * gain, carry)
            product = tl.where(inside, product * slope * gain, product)
            if grad_u_ptr is not None:
                tl.store(grad_u_ptr + at, d.to(grad_u_ptr.dtype.element_ty), mask=lanes & inside)
            at -= width
            h = before
        time -= STEPS
    tl.store(carry_out_ptr + at_row, carry, mask=lanes)
    if product_ptr is not None:
        tl.store(product_ptr + at_row, product, mask=lanes)
    if grad_scale_ptr is not None:
        tl.store(grad_scale_ptr + at_row, grad_c, mask=lanes)


def forward(
    u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Values by the time loop, one program per sequence and block of lanes; ``(h like u, final_state)``."""
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    h = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    final = torch.empty(rows, u.shape[2], dtype=torch.float32, device=u.device)
    start = None if initial_state is None else initial_state.float().contiguous()
    run_rows(u, scale, phase, start, final, h=h, cu_seqlens=cu_seqlens)
    return h, final


def run_rows(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    start: Tensor | None,
    end: Tensor,
    *,
    h: Tensor | None = None,
    product: Tensor | None = None,
    growth: Tensor | None = None,
    pending: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    chunk: int | None = None,
    tolerance: float = 0.0,
) -> None:
    """Launch the forward kernel on every row: sequences, packed sequences, or chunks of ``chunk`` steps.

    ``start``, ``end``, ``product``, ``growth`` (float32) and ``pending`` (int8) are contiguous ``[…, D]``, a
    row in each place before D.
    """
    _, length, width = u.shape
    u = u if u.stride(2) == 1 else u.contiguous()
    chunk = chunk or max(1, length)
    rows = end.shape[:-1].numel()
    block, steps, warps = TIME_LOOP.config(rows * width)
    if growth is not None:
        steps //= 2  # the certificate takes registers: with eight steps they spill on sm_89
    with guard(u):
        _forward_kernel[(rows, triton.cdiv(width, block))](
            **pointers(
                _forward_kernel, u=u, scale=scale.float().contiguous(),
                phase=radians_from_phase(phase, torch.float32).contiguous(), start=start, h=h, end=end,
                product=product, growth=growth, pending=pending, offsets=cu_seqlens,
            ),
            length=length, width=width, stride_batch=u.stride(0), stride_time=u.stride(1),
            chunks=max(1, -(-length // chunk)), chunk_length=chunk, tolerance=tolerance,
            STEPS=steps, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to u, scale and initial_state.

    The adjoint is linear, so few lanes and a long time are cut into chunks whatever made h: each chunk's
    own carry and its factor, the carries over the chunks, then the gradients.
    """
    batch, length, width = h.shape
    rows = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    chunk = TIME_LOOP.chunk_length(rows * width, length) if cu_seqlens is None else max(1, length)
    chunks = max(1, -(-length // chunk))
    rows *= chunks
    grad_h = grad_h if grad_h.stride(2) == 1 else grad_h.contiguous()
    c, φ = scale.float().contiguous(), radians_from_phase(phase, torch.float32).contiguous()
    start = None if initial_state is None else initial_state.float().contiguous()
    block, steps, warps = TIME_LOOP.config(rows * width)

    def launch(**wanted: Tensor | None) -> None:
        _backward_kernel[(rows, triton.cdiv(width, block))](
            **pointers(
                _backward_kernel, grad_h=grad_h, h=h, scale=c, phase=φ, start=start, offsets=cu_seqlens,
                **wanted,
            ),
            length=length, width=width, stride_batch=grad_h.stride(0), stride_time=grad_h.stride(1),
            chunks=chunks, chunk_length=chunk,
            STEPS=steps, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip

    grad_u = torch.empty_like(h)
    grad_scale = h.new_empty(rows, width, dtype=torch.float32)
    with guard(h):
        if chunks == 1:
            grad_initial = torch.empty_like(grad_final)
            launch(
                carry_in=grad_final.contiguous(), carry_out=grad_initial, grad_u=grad_u, grad_scale=grad_scale
            )
        else:
            local, product = (h.new_empty(batch, chunks, width, dtype=torch.float32) for _ in range(2))
            launch(carry_out=local, product=product)
            carries, grad_initial = carry(product, local, grad_final.contiguous(), reverse=True)
            launch(carry_in=carries, carry_out=local, grad_u=grad_u, grad_scale=grad_scale)
    return grad_u, grad_scale.sum(0), grad_initial


def step_(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor) -> Tensor:
    """One step; the state is overwritten by the program that read it, the output returned."""
    h = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    run_rows(u.unsqueeze(1), scale, phase, state, state, h=h)
    return h
