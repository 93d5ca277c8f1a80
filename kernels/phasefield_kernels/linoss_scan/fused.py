"""linoss_scan in Triton: the rotation's kernels, and a time loop in float64 for critical channels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import guard
from ..fused_pairs import neighbours, parts
from ..rotation_scan import fused as rotation
from ..rows import pointers, row_bounds
from .fused_gradients import gradients
from .passes import Form
from .transition import Transition

_BLOCK = 32


@triton.jit
def _by_matrix_kernel(
    pairs_ptr, critical_ptr, matrix_ptr, start_ptr, out_ptr, last_ptr, offsets_ptr, length, width,
    REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # A program owns BLOCK channels of one sequence and writes the critical ones of them alone; without
    # any it ends at once. In reverse the matrix is transposed, the start joins the last step as it is,
    # and what enters the first step is left in last.
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
    lanes = (column < width) & (tl.load(critical_ptr + column, mask=column < width, other=0) != 0)
    if tl.max(lanes.to(tl.int32), 0) == 0:
        return
    pairs = tl.reshape(tl.join(lanes, lanes), (2 * BLOCK,))
    row, _, place, _, begin, end = row_bounds(offsets_ptr, length, 1, length)
    m00 = tl.load(matrix_ptr + column, mask=lanes, other=0.0)
    m01 = tl.load(matrix_ptr + width + column, mask=lanes, other=0.0)
    m10 = tl.load(matrix_ptr + 2 * width + column, mask=lanes, other=0.0)
    m11 = tl.load(matrix_ptr + 3 * width + column, mask=lanes, other=0.0)
    if REVERSE:
        swapped = m01
        m01 = m10
        m10 = swapped
    at_row = row * 2 * width + pair
    real = tl.zeros((BLOCK,), tl.float64)
    imaginary = tl.zeros((BLOCK,), tl.float64)
    if start_ptr is not None:
        start_real, start_imaginary = parts(tl.load(start_ptr + at_row, mask=pairs, other=0.0), BLOCK)
        real += start_real
        imaginary += start_imaginary
    for count in range(0, end - begin):
        time = begin + count
        if REVERSE:
            time = end - 1 - count
        at = (place * length + time) * 2 * width + pair
        new_real = m00 * real + m01 * imaginary
        new_imaginary = m10 * real + m11 * imaginary
        if REVERSE:
            new_real = tl.where(count == 0, real, new_real)
            new_imaginary = tl.where(count == 0, imaginary, new_imaginary)
        input_real, input_imaginary = parts(tl.load(pairs_ptr + at, mask=pairs, other=0.0), BLOCK)
        real = new_real + input_real
        imaginary = new_imaginary + input_imaginary
        value = neighbours(real.to(tl.float32), imaginary.to(tl.float32), BLOCK)
        tl.store(out_ptr + at, value, mask=pairs)
    if REVERSE:
        entering = m00 * real + m01 * imaginary
        imaginary = m10 * real + m11 * imaginary
        real = entering
    value = neighbours(real.to(tl.float32), imaginary.to(tl.float32), BLOCK)
    tl.store(last_ptr + at_row, value, mask=pairs & (end > begin))


def _by_matrix(
    pairs: Tensor,
    step: Transition,
    start: Tensor | None,
    out: Tensor,
    last: Tensor,
    cu_seqlens: Tensor | None,
    *,
    reverse: bool,
) -> None:
    _, length, width, _ = pairs.shape
    start = None if start is None else start.contiguous()
    with guard(pairs):
        _by_matrix_kernel[(last.shape[0], triton.cdiv(width, _BLOCK))](
            **pointers(
                _by_matrix_kernel, pairs=pairs.contiguous(), critical=step.critical.to(torch.int8),
                matrix=step.matrix.mT.contiguous(), start=start, out=out, last=last, offsets=cu_seqlens,
            ),
            length=length, width=width, REVERSE=reverse, BLOCK=_BLOCK, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip


FORM = Form(rotation.forward, rotation.backward, _by_matrix, gradients)
