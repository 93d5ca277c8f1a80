"""rotation_scan in Triton: the state in registers, the time loop inside (rows: :mod:`..rows`).

Where the angle is constant the state is kept in the de-rotated frame, ``u_t = e^{-iφ_t} h_t`` with
``φ_t = (t + 1) θ``: there ``u_t = e^{λ_t} u_{t-1} + e^{-iφ_t} x_t`` has real factors, and no rounding of
e^{iθ} is ever multiplied up. φ_t is a 64-bit integer phase, exact at any t. Per-token angles turn the
state itself. A pointer that is None is an input not given or an output not wanted; pairs are loaded as
the 2 · BLOCK neighbouring floats they are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import gradient_dtype
from ..device import guard
from ..fused_carry import carry
from ..fused_math import sincos, sincos_of_phase, sincos_of_phase_float64
from ..phases import phase_from_radians, radians_from_phase
from ..rows import pointers, row_bounds
from .configs import TIME_LOOP


@triton.jit
def _pairs(loaded, BLOCK: tl.constexpr):
    # 2 · BLOCK neighbouring floats as (real, imaginary) parts in float32.
    return tl.split(tl.reshape(loaded.to(tl.float32), (BLOCK, 2)))


@triton.jit
def _floats(real, imaginary, BLOCK: tl.constexpr):
    return tl.reshape(tl.join(real, imaginary), (2 * BLOCK,))


@triton.jit
def _forward_kernel(
    x_ptr, angle_ptr, decay_ptr, start_ptr, h_ptr, end_ptr, product_ptr, final_ptr, offsets_ptr,
    length, width, stride_batch, stride_time, chunks, chunk_length,
    angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Reads x (and the tokens' angles and decays) and the row's start state; writes h and, at a
    # sequence's end, the final state; or, as a chunk's first pass, its own end state and the product
    # of its factors.
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = column < width
    pairs = pair < 2 * width
    place, first, begin, end = row_bounds(offsets_ptr, row, length, chunks, chunk_length)
    at_row = row * 2 * width + pair
    real = tl.zeros((BLOCK,), tl.float32)
    imaginary = tl.zeros((BLOCK,), tl.float32)
    if start_ptr is not None:
        real, imaginary = _pairs(tl.load(start_ptr + at_row, mask=pairs, other=0.0), BLOCK)
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        phase = turn * (begin - first + 1)
    else:
        angle_at = angle_ptr + place * angle_batch + begin * angle_time + column
    factor = tl.full((BLOCK,), 1.0, tl.float32)
    if decay_ptr is not None:
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + begin * decay_time + column
        else:
            factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    product = tl.full((BLOCK,), 1.0, tl.float32)
    product_imaginary = tl.zeros((BLOCK,), tl.float32)
    x_at = x_ptr + place * stride_batch + begin * stride_time + pair
    at = (place * length + begin) * 2 * width + pair
    time = begin
    for _ in range(0, end - begin, STEPS):
        xs = ()
        angles = ()
        decays = ()
        for s in tl.static_range(STEPS):
            inside = time + s < end
            xs = xs + (tl.load(x_at, mask=pairs & inside, other=0.0),)
            x_at += stride_time
            if TOKEN_ANGLE:
                angles = angles + (tl.load(angle_at, mask=lanes & inside, other=0.0),)
                angle_at += angle_time
            if TOKEN_DECAY:
                decays = decays + (tl.load(decay_at, mask=lanes & inside, other=0.0),)
                decay_at += decay_time
        for s in tl.static_range(STEPS):
            inside = time + s < end
            x_real, x_imaginary = _pairs(xs[s], BLOCK)
            if TOKEN_DECAY:
                factor = tl.exp(decays[s].to(tl.float32))
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                sine *= factor
                cosine *= factor
                new_real = real * cosine - imaginary * sine + x_real
                new_imaginary = real * sine + imaginary * cosine + x_imaginary
                h_real = new_real
                h_imaginary = new_imaginary
                if product_ptr is not None:
                    turned = product * cosine - product_imaginary * sine
                    turned_imaginary = product * sine + product_imaginary * cosine
                    product = tl.where(inside, turned, product)
                    product_imaginary = tl.where(inside, turned_imaginary, product_imaginary)
            else:
                sine, cosine = sincos_of_phase(phase)
                phase += turn
                new_real = factor * real + (x_real * cosine + x_imaginary * sine)
                new_imaginary = factor * imaginary + (x_imaginary * cosine - x_real * sine)
                h_real = new_real * cosine - new_imaginary * sine
                h_imaginary = new_real * sine + new_imaginary * cosine
                if product_ptr is not None:
                    product = tl.where(inside, product * factor, product)
            real = tl.where(inside, new_real, real)
            imaginary = tl.where(inside, new_imaginary, imaginary)
            if h_ptr is not None:
                value = _floats(h_real, h_imaginary, BLOCK).to(h_ptr.dtype.element_ty)
                tl.store(h_ptr + at, value, mask=pairs & inside)
            at += 2 * width
        time += STEPS
    if end_ptr is not None:
        tl.store(end_ptr + at_row, _floats(real, imaginary, BLOCK), mask=pairs)
        tl.store(product_ptr + at_row, _floats(product, product_imaginary, BLOCK), mask=pairs)
    if final_ptr is not None:
        if (row + 1) % chunks == 0:
            if not TOKEN_ANGLE:
                # Once a call, in float64: the same rounding at every call would add up over calls.
                sine, cosine = sincos_of_phase_float64(turn * (end - first))
                exact = real.to(tl.float64)
                exact_imaginary = imaginary.to(tl.float64)
                real = (exact * cosine - exact_imaginary * sine).to(tl.float32)
                imaginary = (exact * sine + exact_imaginary * cosine).to(tl.float32)
            final = final_ptr + (row // chunks) * 2 * width + pair
            tl.store(final, _floats(real, imaginary, BLOCK), mask=pairs)


@triton.jit
def _backward_kernel(
    grad_h_ptr, grad_final_ptr, h_ptr, angle_ptr, decay_ptr, start_ptr, carry_in_ptr,
    grad_x_ptr, grad_angle_ptr, grad_decay_ptr, summed_ptr, carry_out_ptr, product_ptr, offsets_ptr,
    length, width, stride_batch, stride_time, chunks, chunk_length,
    angle_batch, angle_time, decay_batch, decay_time,
    TOKEN_ANGLE: tl.constexpr, TOKEN_DECAY: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Backward in time; G_t is the whole gradient of h_t, g_t the direct one, a_t = exp(λ_t + iθ_t):
    #   G_t = g_t + carry,      carry ← conj(a_t) G_t,      dx_t = G_t
    #   w_t = conj(G_t) a_t h_{t-1},      dλ_t = Re w_t,      dθ_t = −Im w_t
    # The carry into a sequence's last step is dL/d(final_state), in whichever pass; out of its first,
    # d(initial_state). With a constant angle all of it happens in the de-rotated frame, v_t = e^{-iφ_t} G_t:
    #   v_t = e^{-iφ_t} g_t + carry,      carry ← e^{λ_t} v_t,
    #   w_t = conj(v_t) e^{λ_t} e^{-iφ_{t-1}} h_{t-1}
    # A chunk's carry out is linear in its carry in: `product` is the factor, for the chunked form.
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = column < width
    pairs = pair < 2 * width
    place, first, begin, end = row_bounds(offsets_ptr, row, length, chunks, chunk_length)
    at_row = row * 2 * width + pair
    sequence_at = (row // chunks) * 2 * width + pair
    ends = (row + 1) % chunks == 0
    real, imaginary = _pairs(tl.load(grad_final_ptr + sequence_at, mask=pairs & ends, other=0.0), BLOCK)
    start = tl.zeros((2 * BLOCK,), tl.float32)
    if start_ptr is not None:
        start = tl.load(start_ptr + sequence_at, mask=pairs, other=0.0)
    time = end - 1
    if not TOKEN_ANGLE:
        turn = tl.load(angle_ptr + column, mask=lanes, other=0)
        phase = turn * (end - first)
        sine, cosine = sincos_of_phase(phase)
        turned = real * cosine + imaginary * sine
        imaginary = imaginary * cosine - real * sine
        real = turned
    else:
        angle_at = angle_ptr + place * angle_batch + time * angle_time + column
        angle_grad_at = (place * length + time) * width + column
    factor = tl.full((BLOCK,), 1.0, tl.float32)
    if decay_ptr is not None:
        if TOKEN_DECAY:
            decay_at = decay_ptr + place * decay_batch + time * decay_time + column
            decay_grad_at = (place * length + time) * width + column
        else:
            factor = tl.exp(tl.load(decay_ptr + column, mask=lanes, other=0.0))
    if carry_in_ptr is not None:
        carry_real, carry_imaginary = _pairs(tl.load(carry_in_ptr + at_row, mask=pairs, other=0.0), BLOCK)
        real += carry_real
        imaginary += carry_imaginary
    product = tl.full((BLOCK,), 1.0, tl.float32)
    product_imaginary = tl.zeros((BLOCK,), tl.float32)
    sum_real = tl.zeros((BLOCK,), tl.float32)
    sum_imaginary = tl.zeros((BLOCK,), tl.float32)
    grad_at = grad_h_ptr + place * stride_batch + time * stride_time + pair
    at = (place * length + time) * 2 * width + pair
    for _ in range(0, end - begin, STEPS):
        grads = ()
        befores = ()
        angles = ()
        decays = ()
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            grads = grads + (tl.load(grad_at, mask=pairs & inside, other=0.0),)
            grad_at -= stride_time
            if h_ptr is not None:
                earlier = pairs & inside & (time - s > first)
                befores = befores + (tl.load(h_ptr + at - 2 * (s + 1) * width, mask=earlier, other=0.0),)
            if TOKEN_ANGLE:
                angles = angles + (tl.load(angle_at, mask=lanes & inside, other=0.0),)
                angle_at -= angle_time
            if TOKEN_DECAY:
                decays = decays + (tl.load(decay_at, mask=lanes & inside, other=0.0),)
                decay_at -= decay_time
        for s in tl.static_range(STEPS):
            inside = time - s >= begin
            g_real, g_imaginary = _pairs(grads[s], BLOCK)
            if TOKEN_DECAY:
                factor = tl.exp(decays[s].to(tl.float32))
            if TOKEN_ANGLE:
                sine, cosine = sincos(angles[s].to(tl.float32))
                sine *= factor
                cosine *= factor
                v_real = g_real + real
                v_imaginary = g_imaginary + imaginary
                x_real = v_real
                x_imaginary = v_imaginary
                back_real = v_real * cosine + v_imaginary * sine
                back_imaginary = v_imaginary * cosine - v_real * sine
            else:
                v_real = g_real * cosine + g_imaginary * sine + real
                v_imaginary = g_imaginary * cosine - g_real * sine + imaginary
                x_real = v_real * cosine - v_imaginary * sine
                x_imaginary = v_real * sine + v_imaginary * cosine
                back_real = factor * v_real
                back_imaginary = factor * v_imaginary
                phase -= turn
                sine, cosine = sincos_of_phase(phase)  # of φ_{t-1}: for h_{t-1} now, for g next
            if h_ptr is not None:
                before = tl.where(time - s == first, start, befores[s].to(tl.float32))
                h_real, h_imaginary = _pairs(before, BLOCK)
                if TOKEN_ANGLE:
                    # conj(G) a h, as conj(conj(a) G) h
                    w_real = back_real * h_real + back_imaginary * h_imaginary
                    w_imaginary = back_real * h_imaginary - back_imaginary * h_real
                else:
                    u_real = h_real * cosine + h_imaginary * sine
                    u_imaginary = h_imaginary * cosine - h_real * sine
                    w_real = back_real * u_real + back_imaginary * u_imaginary
                    w_imaginary = back_real * u_imaginary - back_imaginary * u_real
                if summed_ptr is not None:
                    sum_real += tl.where(inside, w_real, 0.0)
                    sum_imaginary += tl.where(inside, w_imaginary, 0.0)
                if grad_angle_ptr is not None:
                    value = (-w_imaginary).to(grad_angle_ptr.dtype.element_ty)
                    tl.store(grad_angle_ptr + angle_grad_at, value, mask=lanes & inside)
                    angle_grad_at -= width
                if grad_decay_ptr is not None:
                    value = w_real.to(grad_decay_ptr.dtype.element_ty)
                    tl.store(grad_decay_ptr + decay_grad_at, value, mask=lanes & inside)
                    decay_grad_at -= width
            if product_ptr is not None:
                if TOKEN_ANGLE:
                    turned = product * cosine + product_imaginary * sine
                    turned_imaginary = product_imaginary * cosine - product * sine
                    product = tl.where(inside, turned, product)
                    product_imaginary = tl.where(inside, turned_imaginary, product_imaginary)
                else:
                    product = tl.where(inside, product * factor, product)
            real = tl.where(inside, back_real, real)
            imaginary = tl.where(inside, back_imaginary, imaginary)
            if grad_x_ptr is not None:
                value = _floats(x_real, x_imaginary, BLOCK).to(grad_x_ptr.dtype.element_ty)
                tl.store(grad_x_ptr + at, value, mask=pairs & inside)
            at -= 2 * width
        time -= STEPS
    tl.store(carry_out_ptr + at_row, _floats(real, imaginary, BLOCK), mask=pairs)
    if product_ptr is not None:
        tl.store(product_ptr + at_row, _floats(product, product_imaginary, BLOCK), mask=pairs)
    if summed_ptr is not None:
        tl.store(summed_ptr + at_row, _floats(sum_real, sum_imaginary, BLOCK), mask=pairs)


class _Launch:
    """What forward and backward hand to their kernels: parameters as the kernels read them, and the rows."""

    def __init__(self, x: Tensor, angle: Tensor, log_decay: Tensor | None, cu_seqlens: Tensor | None) -> None:
        self.batch, self.length, self.width = x.shape[:3]
        sequences = self.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.offsets = cu_seqlens
        self.chunk = max(1, self.length)
        if cu_seqlens is None:
            self.chunk = TIME_LOOP.chunk_length(sequences * self.width, self.length)
        self.chunks = max(1, -(-self.length // self.chunk))
        self.rows = sequences * self.chunks
        self.token_angle = angle.ndim == 3
        self.token_decay = log_decay is not None and log_decay.ndim == 3
        if self.token_angle:
            self.angle = _rows_contiguous(
                radians_from_phase(angle, torch.float32) if angle.dtype == torch.int64 else angle
            )
        else:
            self.angle = phase_from_radians(angle).contiguous()
        if log_decay is None or self.token_decay:
            self.decay = None if log_decay is None else _rows_contiguous(log_decay)
        else:
            self.decay = log_decay.float().contiguous()

    def __call__(self, kernel: triton.JITFunction, main: Tensor, **tensors: Tensor | None) -> None:
        block, steps, warps = TIME_LOOP.config(self.rows * self.width)
        angle_batch, angle_time = self.angle.stride()[:2] if self.token_angle else (0, 0)
        decay_batch, decay_time = self.decay.stride()[:2] if self.token_decay else (0, 0)
        with guard(main):
            kernel[(self.rows, triton.cdiv(self.width, block))](
                **pointers(kernel, angle=self.angle, decay=self.decay, offsets=self.offsets, **tensors),
                length=self.length, width=self.width, stride_batch=main.stride(0), stride_time=main.stride(1),
                chunks=self.chunks, chunk_length=self.chunk,
                angle_batch=angle_batch, angle_time=angle_time,
                decay_batch=decay_batch, decay_time=decay_time,
                TOKEN_ANGLE=self.token_angle, TOKEN_DECAY=self.token_decay,
                STEPS=steps, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
            )  # fmt: skip

    def by_chunk(self, like: Tensor) -> Tensor:
        """An empty float32 pair for every chunk and lane, ``[B, chunks, D, 2]``."""
        return like.new_empty(self.batch, self.chunks, self.width, 2, dtype=torch.float32)


def _rows_contiguous(x: Tensor) -> Tensor:
    # The kernels walk over any batch and time strides, and read a time step's values side by side.
    size = 1
    for dim in range(x.ndim - 1, 1, -1):
        if x.shape[dim] > 1 and x.stride(dim) != size:
            return x.contiguous()
        size *= x.shape[dim]
    return x


def forward(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like x, final_state)``.

    Many lanes: one time loop a sequence. Few lanes and a long time: each chunk's own end state and the
    product of its factors, the states carried over the chunks, and the time loops from those.
    """
    launch = _Launch(x, angle, log_decay, cu_seqlens)
    x = _rows_contiguous(x)
    start = None if initial_state is None else initial_state.float().contiguous()
    h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final = x.new_empty(launch.rows // launch.chunks, launch.width, 2, dtype=torch.float32)
    if launch.chunks > 1:
        local, product = launch.by_chunk(x), launch.by_chunk(x)
        launch(_forward_kernel, x, x=x, end=local, product=product)
        with guard(x):
            start, _ = carry(product, local, start)
    launch(_forward_kernel, x, x=x, start=start, h=h, final=final)
    return h, final


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    needs_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients to x, angle, log_decay and initial_state; angle's and log_decay's only if needed."""
    launch = _Launch(h, angle, log_decay, cu_seqlens)
    grad_h = _rows_contiguous(grad_h)
    grad_final = grad_final.contiguous()
    start = None if initial_state is None else initial_state.float().contiguous()
    grad_x = torch.empty_like(h)
    token_grads = [
        torch.empty(p.shape, dtype=gradient_dtype(p, h), device=h.device)
        if by_token and needs_parameters
        else None
        for p, by_token in ((angle, launch.token_angle), (log_decay, launch.token_decay))
    ]
    out = h.new_empty(launch.rows, launch.width, 2, dtype=torch.float32)
    has_constant = not launch.token_angle or (log_decay is not None and not launch.token_decay)
    summed = torch.empty_like(out) if needs_parameters and has_constant else None
    carries = None
    grad_initial = out
    if launch.chunks > 1:
        local, product = launch.by_chunk(h), launch.by_chunk(h)
        launch(
            _backward_kernel, grad_h, grad_h=grad_h, grad_final=grad_final, carry_out=local, product=product
        )
        with guard(h):
            carries, grad_initial = carry(product, local, None, reverse=True)
    launch(
        _backward_kernel, grad_h, grad_h=grad_h, grad_final=grad_final, h=h if needs_parameters else None,
        start=start, carry_in=carries, grad_x=grad_x, grad_angle=token_grads[0], grad_decay=token_grads[1],
        summed=summed, carry_out=out,
    )  # fmt: skip
    grad_angle, grad_decay = token_grads
    if summed is not None:
        total = summed.sum(0)
        grad_angle = grad_angle if launch.token_angle else -total[:, 1]
        grad_decay = grad_decay if launch.token_decay else total[:, 0].contiguous()
    return grad_x, grad_angle, grad_decay, grad_initial


def step_(x: Tensor, angle: Tensor, log_decay: Tensor | None, state: Tensor) -> Tensor:
    """One step; the state is overwritten by the program that read it, the output returned."""
    angle, log_decay = (p.unsqueeze(1) if p is not None and p.ndim == 2 else p for p in (angle, log_decay))
    x = x.unsqueeze(1)
    launch = _Launch(x, angle, log_decay, None)
    x = _rows_contiguous(x)
    h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch(_forward_kernel, x, x=x, start=state, h=h, final=state)
    return h.squeeze(1)
