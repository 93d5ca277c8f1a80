"""linoss_scan's gradients to u, A and dt in Triton: pairs and their gradients are read once.

A program owns BLOCK channels of a piece of all rows (b, t), ROWS of them at a time, and writes the piece's
sums for A and dt.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import guard
from ..fused_pairs import parts
from ..rows import pointers
from .transition import Transition

_ROWS, _BLOCK = 8, 64
_SHORTEST, _PIECES = 64, 512  # rows of a piece, and pieces beyond which they grow


@triton.jit
def _gradients_kernel(
    whole_ptr, pairs_ptr, u_ptr, channels_ptr, grad_u_ptr, sums_ptr, rows, width, piece,
    IMPLICIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = column < width
    at = channels_ptr + column
    A = tl.load(at, mask=lanes, other=0.0)[None, :]
    dt = tl.load(at + width, mask=lanes, other=0.0)[None, :]
    damping = tl.load(at + 2 * width, mask=lanes, other=0.0)[None, :]
    gain_real = tl.load(at + 3 * width, mask=lanes, other=0.0)[None, :]
    gain_imaginary = tl.load(at + 4 * width, mask=lanes, other=0.0)[None, :]
    alpha = tl.load(at + 5 * width, mask=lanes, other=0.0)[None, :]
    kappa = tl.load(at + 6 * width, mask=lanes, other=0.0)[None, :]
    inverse = tl.load(at + 7 * width, mask=lanes, other=0.0)[None, :]
    first = tl.program_id(0).to(tl.int64) * piece
    to_A = tl.zeros((ROWS, BLOCK), tl.float32)
    to_dt = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(0, piece, ROWS):
        row = first + step + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & lanes[None, :]
        at_pairs = row * (2 * width) + pair[None, :]
        pairs_inside = (row < rows) & (pair < 2 * width)[None, :]
        real, imaginary = parts(tl.load(pairs_ptr + at_pairs, mask=pairs_inside, other=0.0), BLOCK)
        to_velocity, to_imaginary = parts(tl.load(whole_ptr + at_pairs, mask=pairs_inside, other=0.0), BLOCK)
        u = tl.load(u_ptr + row * width + column[None, :], mask=inside, other=0.0).to(tl.float32)
        grad_u = to_velocity * gain_real + to_imaginary * gain_imaginary
        tl.store(
            grad_u_ptr + row * width + column[None, :], grad_u.to(grad_u_ptr.dtype.element_ty), mask=inside
        )
        position = imaginary * inverse
        velocity = real - alpha * position
        to_position = kappa * to_imaginary + alpha * to_velocity
        through = to_velocity + dt * to_position
        if IMPLICIT:
            pull = position
            rest = damping * (to_position - dt * A * to_velocity)
        else:
            pull = position - dt * velocity
            rest = to_position
        to_A += pull * through
        to_dt += damping * (u - A * pull) * through + velocity * rest
    at = tl.program_id(0).to(tl.int64) * (2 * width) + column
    tl.store(sums_ptr + at, tl.sum(to_A, 0), mask=lanes)
    tl.store(sums_ptr + at + width, tl.sum(to_dt, 0), mask=lanes)


def gradients(
    whole: Tensor, pairs: Tensor, u: Tensor, A: Tensor, dt: Tensor, step: Transition, implicit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to u, A and dt; the mathematics and the arguments are those of :func:`.passes.gradients`."""
    width = u.shape[2]
    rows = u.shape[0] * u.shape[1]
    numbers = (
        A.double(),
        dt.double(),
        step.damping,
        *step.gain.unbind(-1),
        step.alpha,
        step.kappa,
        1 / step.kappa,
    )
    channels = torch.stack(numbers).float()
    piece = triton.cdiv(max(_SHORTEST, triton.cdiv(rows, _PIECES)), _ROWS) * _ROWS
    pieces = triton.cdiv(rows, piece)
    grad_u = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    sums = torch.empty(pieces, 2, width, device=u.device)
    if grad_u.numel():
        with guard(u):
            _gradients_kernel[(pieces, triton.cdiv(width, _BLOCK))](
                **pointers(
                    _gradients_kernel, whole=whole.contiguous(), pairs=pairs.contiguous(), u=u.contiguous(),
                    channels=channels, grad_u=grad_u, sums=sums,
                ),
                rows=rows, width=width, piece=piece,
                IMPLICIT=implicit, ROWS=_ROWS, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    to_A, to_dt = sums.sum(0)
    _, dt, damping = channels[:3]
    return grad_u, -(dt * damping) * to_A, to_dt
