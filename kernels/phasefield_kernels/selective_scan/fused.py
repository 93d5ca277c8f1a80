"""selective_scan in Triton: how the kernels of :mod:`.fused_forward` and :mod:`.fused_backward` are launched.

Kept for the backward, in one flat tensor: the states between segments of a row, and, where the time is cut
into chunks, the states that enter these.
"""

import math
from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from ..device import guard, register_limit
from ..fused_carry import carry
from ..rows import pointers
from .configs import LANES_AT_A_TIME, SEGMENT, TIME_LOOP
from .fused_backward import backward_ends_kernel, backward_kernel
from .fused_forward import forward_kernel
from .tiles import Inputs


def chunk_length(lanes: int, length: int, packed: bool) -> int:
    """Steps a row; ``lanes`` are all channels of all sequences."""
    return max(1, length) if packed else TIME_LOOP.chunk_length(lanes, length)


def kept_states(shape: tuple[int, ...], packed: bool) -> tuple[int, int]:
    """How many states are kept of x ``[B, T, D]``: between segments, and before chunks."""
    batch, length, width = shape
    chunks = -(-length // chunk_length(batch * width, length, packed))
    return batch * length // SEGMENT, batch * chunks if chunks > 1 else 0


class _Launch:
    """What all launches of a call share: inputs as the kernels read them, rows, lanes of a program."""

    def __init__(self, inputs: Inputs, cu_seqlens: Tensor | None) -> None:
        x, A = inputs.x, inputs.A
        self.batch, self.length, self.width = x.shape
        self.is_complex = A.ndim == 3
        self.state_shape = tuple(A.shape)
        B, C = (self._by_group(projection) for projection in (inputs.B, inputs.C))
        self.groups = B.shape[2]
        channels = self.width // self.groups
        self.inputs = {"x": x, "dt": inputs.dt, "z": inputs.z, "B": B, "C": C, "offsets": cu_seqlens}
        self.inputs |= {
            name: None if tensor is None else tensor.float().contiguous()
            for name, tensor in (("A", A), ("D", inputs.D), ("bias", inputs.dt_bias))
        }
        self.sequences = self.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        chunk = chunk_length(self.sequences * self.width, self.length, cu_seqlens is not None)
        self.chunks = max(1, -(-self.length // chunk))
        self.rows = self.sequences * self.chunks
        config = TIME_LOOP.config(self.rows * self.width)
        padded = triton.next_power_of_2(max(1, A.shape[1]))
        self.block = config.block(padded * (2 if self.is_complex else 1), channels)
        self.blocks = triton.cdiv(channels, self.block)
        # A complex number takes two registers.
        steps, held = (
            min(number // (2 if self.is_complex else 1), triton.next_power_of_2(max(1, self.length)))
            for number in (config.steps, config.held)
        )
        self.steps = {forward_kernel: steps, backward_ends_kernel: steps, backward_kernel: held}
        self.scalars = dict(
            length=self.length, width=self.width, groups=self.groups, channels=channels, blocks=self.blocks,
            states=A.shape[1], chunks=self.chunks, chunk_length=chunk,
            block_numbers=self.batch * self.length * self.groups * math.prod(self.state_shape[1:]),
            pieces=triton.cdiv(min(SEGMENT, chunk), held),
            COMPLEX=self.is_complex, SOFTPLUS=inputs.dt_softplus, SEGMENT=SEGMENT, STATES=padded,
            BLOCK=self.block,
        )  # fmt: skip
        self.num_warps = config.num_warps
        self.kept = kept_states(x.shape, cu_seqlens is not None)

    def _by_group(self, projection: Tensor) -> Tensor:
        # [B, T, G, N(, 2)], the parts of a complex number side by side; any other strides.
        if self.is_complex and projection.stride(-1) != 1:
            projection = projection.contiguous()
        return projection if projection.ndim == 4 + self.is_complex else projection.unsqueeze(2)

    def __call__(
        self, kernel: triton.JITFunction, *, rows: range | None = None, **tensors: Tensor | None
    ) -> None:
        """Launch a kernel on rows (all of them if None) with the call's inputs and tensors of its own."""
        rows = range(self.rows) if rows is None else rows
        if not rows or not self.width:
            return
        wanted = {name: t for name, t in self.inputs.items() if f"{name}_ptr" in kernel.arg_names}
        given = pointers(kernel, **wanted, **tensors)
        scalars = {"first_row": rows.start, "STEPS": self.steps[kernel]} | self.scalars
        by_token = {name: self.inputs[name] for name in ("x", "dt", "z", "B", "C")}
        for name, tensor in (by_token | {"grad": tensors.get("grad")}).items():
            axes = ("batch", "time", "group", "state") if name in ("B", "C") else ("batch", "time", "lane")
            for dim, axis in enumerate(axes):
                scalars[f"{name}_{axis}"] = 0 if tensor is None else tensor.stride(dim)
        with guard(self.inputs["x"]):
            kernel[(len(rows), self.groups * self.blocks)](
                **given, **{name: value for name, value in scalars.items() if name in kernel.arg_names},
                num_warps=self.num_warps, enable_fp_fusion=True, **register_limit(),
            )  # fmt: skip

    def states(self, count: int) -> Tensor:
        """Memory for the states of all lanes of ``count`` rows, ``[count, D, N(, 2)]``."""
        x = self.inputs["x"]
        return torch.empty(count, *self.state_shape, dtype=torch.float32, device=x.device)

    def carry(
        self, product: Tensor, local: Tensor, start: Tensor | None, *, before: Tensor, reverse: bool = False
    ) -> Tensor:
        """Fill ``before`` with the states that enter the chunks, and return the last ones."""
        lanes = (self.width * self.state_shape[1], *self.state_shape[2:])
        product, local, before = (t.view(self.batch, self.chunks, *lanes) for t in (product, local, before))
        start = None if start is None else start.view(self.batch, *lanes)
        with guard(product):
            _, last = carry(product, local, start, before=before, reverse=reverse)
        return last.view(self.batch, *self.state_shape)

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        """Rows to launch together, and the scratch that all these launches use."""
        programs = self.groups * self.blocks
        at_a_time = max(1, min(self.rows, LANES_AT_A_TIME // max(1, programs * self.block)))
        tile = self.scalars["STATES"] * self.block * (2 if self.is_complex else 1)
        scratch = self.inputs["x"].new_empty(
            at_a_time * programs, self.scalars["pieces"], tile, dtype=torch.float32
        )
        for begin in range(0, self.rows, at_a_time):
            yield range(begin, min(begin + at_a_time, self.rows)), scratch

    def partial(self, like: Tensor) -> Tensor:
        """Memory for the gradient of B or C from each block of lanes, ``[blocks, B, T, G, N(, 2)]``."""
        # One block's is the gradient itself, several blocks' are summed.
        dtype = like.dtype if self.blocks == 1 else torch.float32
        shape = (*self.inputs["x"].shape[:2], self.groups, *self.state_shape[1:])
        return torch.empty(self.blocks, *shape, dtype=dtype, device=like.device)


def forward(
    inputs: Inputs, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(y, final_state, kept)``: kept are the states that the backward needs, flat.

    Many lanes: one time loop a sequence. Few lanes and a long time: each chunk's own end state and the
    product of its factors, the states carried over the chunks, and the time loops from those.
    """
    launch = _Launch(inputs, cu_seqlens)
    x = inputs.x
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final = launch.states(launch.sequences)
    kept = launch.states(sum(launch.kept))
    between, entered = kept.split(launch.kept)
    start = None if initial_state is None else initial_state.float().contiguous()
    if launch.chunks > 1:
        local, product = launch.states(launch.rows), launch.states(launch.rows)
        launch(forward_kernel, end=local, product=product)
        launch.carry(product, local, start, before=entered)
        start = entered
    launch(forward_kernel, start=start, y=y, final=final, kept=between if launch.kept[0] else None)
    return y, final, kept.flatten()


def backward(
    grad_y: Tensor,
    grad_final: Tensor,
    kept: Tensor,
    inputs: Inputs,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients to x, dt, B, C, z, A, D, dt_bias and initial_state; None for those not given."""
    launch = _Launch(inputs, cu_seqlens)
    x = inputs.x
    grad_x, grad_dt, grad_z = (
        None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)
        for t in (x, inputs.dt, inputs.z)
    )
    grad_B, grad_C = launch.partial(inputs.B), launch.partial(inputs.C)
    grad_A = launch.states(launch.rows)
    grad_D, grad_bias = (
        None if t is None else x.new_empty(launch.rows, launch.width, dtype=torch.float32)
        for t in (inputs.D, inputs.dt_bias)
    )
    between, start = kept.view(sum(launch.kept), *launch.state_shape).split(launch.kept)
    between = between if launch.kept[0] else None
    cotangents = dict(grad=grad_y, grad_final=grad_final.contiguous())
    if launch.chunks > 1:
        local, product = launch.states(launch.rows), launch.states(launch.rows)
        launch(backward_ends_kernel, **cotangents, end=local, product=product)
        carries, carry_out = launch.states(launch.rows), None
        grad_initial = launch.carry(product, local, None, before=carries, reverse=True)
    else:
        carries = None
        start = None if initial_state is None else initial_state.float().contiguous()
        grad_initial = carry_out = None if start is None else torch.empty_like(start)
    for rows, scratch in launch.slices():
        launch(
            backward_kernel, rows=rows, scratch=scratch, **cotangents, start=start, kept=between,
            carry_in=carries, grad_x=grad_x, grad_dt=grad_dt, grad_z=grad_z, grad_B=grad_B, grad_C=grad_C,
            grad_A=grad_A, grad_D=grad_D, grad_bias=grad_bias, carry_out=carry_out,
        )  # fmt: skip
    # The second of the reductions' two stages.
    sums = [None if t is None else t.sum(0) for t in (grad_A, grad_D, grad_bias)]
    grad_B, grad_C = (
        (g[0] if launch.blocks == 1 else g.sum(0)).view(inputs.B.shape) for g in (grad_B, grad_C)
    )
    grads = (grad_x, grad_dt, grad_B, grad_C, grad_z, *sums)
    return *(None if g is None else g.to(t.dtype) for g, t in zip(grads, inputs, strict=False)), grad_initial


def step_(inputs: Inputs, state: Tensor) -> Tensor:
    """One step; the state is overwritten by the program that read it, the output returned."""
    y = torch.empty(inputs.x.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    _Launch(inputs, None)(forward_kernel, start=state, y=y, final=state)
    return y
