"""rotation_scan in Triton: how the kernels of :mod:`.fused_kernels` and :mod:`.fused_spans` are launched."""

import torch
import triton
from torch import Tensor

from ..checks import gradient_dtype
from ..device import architecture, for_architecture, guard
from ..fused_carry import carry
from ..phases import phase_from_radians, radians_from_phase
from ..rows import pointers, rows_contiguous
from .configs import SIDE_BY_SIDE, TIME_LOOP, Spans
from .fused_kernels import backward_kernel, forward_kernel
from .fused_spans import forward_spans_kernel
from .fused_spans_gradient import backward_spans_kernel


def spans_side_by_side(sequences: int, length: int, width: int, packed: bool) -> Spans | None:
    """The spans that programs take side by side; None for time loops, of whole sequences or of chunks.

    Lanes enough to keep a GPU busy take a thread each. Of fewer, chunks and spans put as many threads to
    work as there are of either; so chunks, whose inputs are read twice in three launches, have to be more.

    Args:
        sequences, width: whose product is the number of lanes.
        length: of each sequence, or of all of them if they are packed, which are not cut into chunks.
        packed: whether they are.
    """
    spans = for_architecture(SIDE_BY_SIDE, architecture())
    lanes = sequences * width
    chunk = length if packed else TIME_LOOP.chunk_length(lanes, length)
    if packed:
        length //= max(1, sequences)
    several = spans.spans * spans.steps <= length <= spans.spans * chunk
    return spans if several and lanes < TIME_LOOP.lanes_wanted else None


class _Launch:
    """What forward and backward hand to their kernels: parameters as the kernels read them, and the rows."""

    def __init__(
        self,
        x: Tensor,
        angle: Tensor,
        log_decay: Tensor | None,
        gate: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> None:
        self.batch, self.length, self.width = x.shape[:3]
        sequences = self.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.offsets = cu_seqlens
        self.spans = spans_side_by_side(sequences, self.length, self.width, cu_seqlens is not None)
        self.chunk = max(1, self.length)
        if cu_seqlens is None and self.spans is None:
            self.chunk = TIME_LOOP.chunk_length(sequences * self.width, self.length)
        self.chunks = max(1, -(-self.length // self.chunk))
        self.rows = sequences * self.chunks
        self.token_angle = angle.ndim == 3
        self.token_decay = log_decay is not None and log_decay.ndim == 3
        self.gate = None if gate is None else rows_contiguous(gate)
        if self.token_angle:
            self.angle = rows_contiguous(
                radians_from_phase(angle, torch.float32) if angle.dtype == torch.int64 else angle
            )
        else:
            self.angle = phase_from_radians(angle).contiguous()
        if log_decay is None or self.token_decay:
            self.decay = None if log_decay is None else rows_contiguous(log_decay)
        else:
            self.decay = log_decay.float().contiguous()

    def __call__(self, kernel: triton.JITFunction, **tensors: Tensor | None) -> None:
        if self.spans:
            spans, block, steps, warps = self.spans
            cut = dict(SPANS=spans)
        else:
            block, steps, warps = TIME_LOOP.config(self.rows * self.width)
            cut = dict(chunks=self.chunks, chunk_length=self.chunk)
        if kernel in (backward_kernel, backward_spans_kernel):
            steps //= 2
        by_token = dict(
            x=tensors.get("x"),
            grad=tensors.get("grad_h"),
            gate=self.gate,
            angle=self.angle if self.token_angle else None,
            decay=self.decay if self.token_decay else None,
        )
        given = pointers(
            kernel, gate=self.gate, angle=self.angle, decay=self.decay, offsets=self.offsets, **tensors
        )
        with guard(self.angle):
            kernel[(self.rows, triton.cdiv(self.width, block))](
                **given, **_strides(kernel, by_token), **cut, length=self.length, width=self.width,
                TOKEN_ANGLE=self.token_angle, TOKEN_DECAY=self.token_decay,
                STEPS=steps, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
            )  # fmt: skip

    def by_chunk(self, like: Tensor) -> Tensor:
        """An empty float32 pair for every chunk and lane, ``[B, chunks, D, 2]``."""
        return like.new_empty(self.batch, self.chunks, self.width, 2, dtype=torch.float32)


def _strides(kernel: triton.JITFunction, tensors: dict[str, Tensor | None]) -> dict[str, int]:
    # ``<name>_batch`` and ``<name>_time`` of those that the kernel walks along; 0 for one not given.
    strides = {
        f"{name}_{axis}": 0 if tensor is None else tensor.stride(dim)
        for name, tensor in tensors.items()
        for dim, axis in enumerate(("batch", "time"))
    }
    return {name: stride for name, stride in strides.items() if name in kernel.arg_names}


def forward(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like x, final_state)``.

    Many lanes: one time loop a sequence. Few: spans of time side by side in a program. Few and a long
    time: each chunk's own end state and the product of its factors, the states carried over the chunks, and
    the time loops from those, which reads the inputs twice.
    """
    launch = _Launch(x, angle, log_decay, gate, cu_seqlens)
    x = rows_contiguous(x)
    start = None if initial_state is None else initial_state.float().contiguous()
    h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final = x.new_empty(launch.rows // launch.chunks, launch.width, 2, dtype=torch.float32)
    if launch.chunks > 1:
        local, product = launch.by_chunk(x), launch.by_chunk(x)
        launch(forward_kernel, x=x, end=local, product=product)
        with guard(x):
            start, _ = carry(product, local, start)
    kernel = forward_spans_kernel if launch.spans else forward_kernel
    launch(kernel, x=x, start=start, h=h, final=final)
    return h, final


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    x: Tensor | None,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    needs_parameters: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Gradients to x, angle, log_decay, gate and initial_state; the parameters' and gate's only if needed.

    x is read for the gate's gradient alone.
    """
    launch = _Launch(h, angle, log_decay, gate, cu_seqlens)
    grad_h = rows_contiguous(grad_h)
    grad_final = grad_final.contiguous()
    x = None if gate is None or not needs_parameters else rows_contiguous(x)
    start = None if initial_state is None else initial_state.float().contiguous()
    grad_x = torch.empty_like(h)
    grad_angle, grad_decay, grad_gate = (
        torch.empty(p.shape, dtype=gradient_dtype(p, h), device=h.device)
        if needs_parameters and p is not None and p.ndim == 3
        else None
        for p in (angle, log_decay, gate)
    )
    out = h.new_empty(launch.rows, launch.width, 2, dtype=torch.float32)
    has_constant = not launch.token_angle or (log_decay is not None and not launch.token_decay)
    summed = torch.empty_like(out) if needs_parameters and has_constant else None
    grad_initial = out
    cotangents = dict(grad_h=grad_h, grad_final=grad_final)
    if launch.chunks > 1:
        local, product = launch.by_chunk(h), launch.by_chunk(h)
        launch(backward_kernel, **cotangents, carry_out=local, product=product)
        with guard(h):
            cotangents["carry_in"], grad_initial = carry(product, local, None, reverse=True)
    launch(
        backward_spans_kernel if launch.spans else backward_kernel,
        **cotangents, h=h if needs_parameters else None, x=x, start=start,
        grad_x=grad_x, grad_gate=grad_gate, grad_angle=grad_angle, grad_decay=grad_decay,
        summed=summed, carry_out=out,
    )  # fmt: skip
    if summed is not None:
        total = summed.sum(0)
        grad_angle = grad_angle if launch.token_angle else -total[:, 1]
        grad_decay = grad_decay if launch.token_decay else total[:, 0].contiguous()
    return grad_x, grad_angle, grad_decay, grad_gate, grad_initial


def step_(x: Tensor, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, state: Tensor) -> Tensor:
    """One step; the state is overwritten by the program that read it, the output returned."""
    angle, log_decay = (p.unsqueeze(1) if p is not None and p.ndim == 2 else p for p in (angle, log_decay))
    x = x.unsqueeze(1)
    launch = _Launch(x, angle, log_decay, None if gate is None else gate.unsqueeze(1), None)
    x = rows_contiguous(x)
    h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch(forward_kernel, x=x, start=state, h=h, final=state)
    return h.squeeze(1)
