"""hebbian_scan in Triton: how the kernels of :mod:`.fused_kernels` and :mod:`.fused_gradient` are launched.

Launches, each over chunks or states of all heads at once:

- forward: for the delta rule what chunks write by themselves; the states; the reads.
- backward: the same up to the states, which are recomputed, not kept; for Hebb's rule the states' gradients
  backward in time, then dV and dβ; for the delta rule (Q Kᴴ ⊙ G)ᴴ dY, which those wait for; the gradients.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..device import guard, register_limit
from ..rows import pointers, rows_contiguous
from .configs import Tile, config, inverse_precision
from .fused_gradient import gradient_kernel
from .fused_kernels import read_kernel, state_kernel, written_kernel
from .inputs import Inputs


class _Cut(NamedTuple):
    """How many tiles a state has along its rows and columns, and their sizes."""

    row_blocks: int
    column_blocks: int
    row_block: int
    column_block: int


class _Launch:
    """What forward and backward hand to their kernels: the tokens, and how they are cut into chunks."""

    def __init__(self, inputs: Inputs) -> None:
        q, k, v, log_decay, beta, _, cu_seqlens, delta = inputs
        self.q, self.k, self.v = (rows_contiguous(t, 3) for t in (q, k, v))
        self.beta, self.delta = beta, delta
        self.batch, self.length, self.heads, self.columns = q.shape[:4]
        self.rows = v.shape[3]
        self.parts = 2 if q.ndim == 5 else 1
        self.decay = log_decay
        if log_decay is not None and log_decay.ndim == 1:
            self.decay = log_decay.expand(self.batch, self.length, self.heads)
        self.config = config(q.dtype, self.parts == 2, delta, self.columns, self.rows)
        chunk = self.config.chunk
        self.offsets = cu_seqlens
        self.chunks = triton.cdiv(self.length, chunk)
        self.sequences, self.programs = self.batch, self.batch * self.chunks
        self.first = self.sequence = None
        if cu_seqlens is not None:
            # Known on the device alone: each sequence has at most one chunk that is not full.
            self.sequences = cu_seqlens.shape[0] - 1
            self.programs = self.length // chunk + self.sequences
            counts = (cu_seqlens.diff() + (chunk - 1)).div(chunk, rounding_mode="floor")
            past = counts.cumsum(0)
            self.first = past - counts
            numbers = torch.arange(self.programs, device=q.device)
            self.sequence = torch.searchsorted(past, numbers, right=True).clamp_max_(self.sequences - 1)

    def of_tokens(self, width: int) -> Tensor:
        """An empty tensor by token and number, in planes, in the inputs' dtype."""
        return self.q.new_empty(self.parts, self.batch, self.length, self.heads, width)

    def of_chunks(self) -> Tensor:
        """An empty state for every chunk and head, in planes, in the inputs' dtype."""
        return self.q.new_empty(self.programs, self.heads, self.parts, self.rows, self.columns)

    def written(self, *, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """The delta rule's U₀, W, and M if kept."""
        u, w = self.of_tokens(self.rows), self.of_tokens(self.columns)
        m = self.of_tokens(self.config.chunk) if keep else None
        cut = self.cut(self.config.tile)
        self._by_chunk(
            written_kernel, self.config.tile, 1,
            k=self.k, v=self.v, beta=self.beta, decay=self.decay, u=u, w=w, m=m,
            ROW_BLOCKS=cut.row_blocks, COLUMN_BLOCKS=cut.column_blocks,
            INVERSE=inverse_precision(self.q.dtype),
        )  # fmt: skip
        return u, w, m

    def states(self, start: Tensor | None, u: Tensor | None, w: Tensor | None) -> tuple[Tensor, Tensor]:
        """States before the chunks, and the last ones; u becomes what is written."""
        return self._states(self.k, self.v, start, u, w, None, reverse=False)

    def ends(self, grad_y: Tensor, grad_final: Tensor, u: Tensor | None, w: Tensor | None) -> tuple:
        """Gradients to the states after the chunks, and to the first ones; u becomes dU."""
        return self._states(self.q, grad_y, grad_final, u, w, self.k if self.delta else None, reverse=True)

    def _states(
        self,
        key: Tensor,
        value: Tensor,
        start: Tensor | None,
        u: Tensor | None,
        w: Tensor | None,
        k: Tensor | None,
        *,
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        states = self.of_chunks()
        shape = (self.sequences, self.heads, self.rows, self.columns, *self.q.shape[4:])
        final = self.q.new_empty(shape, dtype=torch.float32)
        kernel = state_kernel
        tile = self.config.state
        row_blocks, _, row_block, _ = self.cut(tile)
        cut = self.cut(self.config.tile)
        blocks = cut.column_blocks if self.delta else 1
        tensors = dict(key=key, value=value, beta=self.beta, decay=self.decay, k=k)
        with guard(self.q):
            kernel[(self.sequences * self.heads, row_blocks, cut.column_blocks // blocks)](
                **pointers(
                    kernel, **tensors, u=u, w=w, start=start, states=states, final=final,
                    offsets=self.offsets, first=self.first,
                ),
                **_strides(kernel, tensors), **self._sizes(),
                DELTA=self.delta, REVERSE=reverse, RESIDENT=self.config.resident,
                BLOCK_ROWS=row_block, BLOCKS=blocks, BLOCK_COLUMNS=cut.column_block,
                num_warps=tile.num_warps, num_stages=tile.num_stages,
            )  # fmt: skip
        return states, final

    def read(self, states: Tensor, u: Tensor | None) -> Tensor:
        """Y."""
        y = self.q.new_empty(self.v.shape)
        self._read(self.q, self.k, self.v, reverse=False, states=states, u=u, v=None, out=y)
        return y

    def read_back(self, grad_y: Tensor, ends: Tensor | None, **outputs: Tensor | None) -> None:
        """Hebb's dV and parts of dβ; for the delta rule (Q Kᴴ ⊙ G)ᴴ dY."""
        self._read(self.k, self.q, grad_y, reverse=True, states=ends, v=self.v, **outputs)

    def _read(
        self, query: Tensor, key: Tensor, value: Tensor, *, reverse: bool, **rest: Tensor | None
    ) -> None:
        cut = self.cut(self.config.tile)
        self._by_chunk(
            read_kernel, self.config.tile, cut.row_blocks,
            query=query, key=key, value=value, beta=self.beta, decay=self.decay, **rest,
            DELTA=self.delta, REVERSE=reverse, COLUMN_BLOCKS=cut.column_blocks,
        )  # fmt: skip

    def gradients(self, **tensors: Tensor | None) -> None:
        """Of q, k and the log-decay; for the delta rule of v and beta as well."""
        cut = self.cut(self.config.gradient)
        self._by_chunk(
            gradient_kernel, self.config.gradient, cut.column_blocks,
            q=self.q, k=self.k, v=self.v, beta=self.beta, decay=self.decay, **tensors,
            DELTA=self.delta, ROW_BLOCKS=cut.row_blocks,
        )  # fmt: skip

    def parts_by_token(self, blocks: int) -> Tensor:
        """Empty float32 sums by block and token, ``[blocks, B, T, H]``."""
        return self.q.new_empty(blocks, self.batch, self.length, self.heads, dtype=torch.float32)

    def cut(self, tile: Tile) -> _Cut:
        """A head's state cut into tiles."""
        row, column = (min(tile.block, _power(size)) for size in (self.rows, self.columns))
        return _Cut(triton.cdiv(self.rows, row), triton.cdiv(self.columns, column), row, column)

    def _by_chunk(
        self, kernel: triton.JITFunction, tile: Tile, blocks: int, **given: Tensor | int | str | None
    ) -> None:
        tensors = {name: t for name, t in given.items() if name.islower()}
        options = {name: value for name, value in given.items() if name.isupper()}
        cut = self.cut(tile)
        # The other kernels spill with it, and do not when ptxas is left alone.
        limit = register_limit() if kernel is written_kernel else {}
        with guard(self.q):
            kernel[(self.programs, self.heads, blocks)](
                **pointers(
                    kernel, **tensors, offsets=self.offsets, first=self.first, sequence=self.sequence
                ),
                **_strides(kernel, tensors), **self._sizes(), **options,
                BLOCK_ROWS=cut.row_block, BLOCK_COLUMNS=cut.column_block,
                num_warps=tile.num_warps, num_stages=tile.num_stages, **limit,
            )  # fmt: skip

    def _sizes(self) -> dict[str, int | bool | str]:
        return dict(
            length=self.length, chunks=self.chunks, heads=self.heads,
            tokens=self.batch * self.length * self.heads, rows=self.rows, columns=self.columns,
            COMPLEX=self.parts == 2, PRECISION="ieee", CHUNK=self.config.chunk, enable_fp_fusion=True,
        )  # fmt: skip


def _power(size: int) -> int:
    # The smallest tile of a size: tensor cores take 16 at least.
    return max(16, triton.next_power_of_2(size))


def _strides(kernel: triton.JITFunction, tensors: dict[str, Tensor | None]) -> dict[str, tuple[int, ...]]:
    # ``<name>_strides``: of batch, time and head; zeros for a tensor that is not given.
    strides = {f"{n}_strides": (0, 0, 0) if t is None else t.stride()[:3] for n, t in tensors.items()}
    return {name: stride for name, stride in strides.items() if name in kernel.arg_names}


def forward(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Values; nothing is kept: the backward recomputes the states."""
    q, v, initial_state, delta = inputs.q, inputs.v, inputs.initial_state, inputs.delta
    launch = _Launch(inputs)
    start = None if initial_state is None else initial_state.float().contiguous()
    nothing = q.new_empty(0, dtype=torch.float32)
    if q.shape[:3].numel() == 0:
        return q.new_empty(v.shape), _or_zeros(start, launch), nothing
    u = w = None
    if delta:
        u, w, _ = launch.written(keep=False)
    states, final = launch.states(start, u, w)
    return launch.read(states, u), final, nothing


def _or_zeros(start: Tensor | None, launch: _Launch) -> Tensor:
    if start is not None:
        return start.clone()
    shape = (launch.sequences, launch.heads, launch.rows, launch.columns, *launch.q.shape[4:])
    return launch.q.new_zeros(shape, dtype=torch.float32)


def backward(
    grad_y: Tensor, grad_final: Tensor, _: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients."""
    q, k, v, log_decay, beta, initial_state, _, delta = inputs
    launch = _Launch(inputs)
    grad_q, grad_k, grad_v = (t.new_empty(t.shape) for t in (q, k, v))
    grad_final = grad_final.float().contiguous()
    # Each program of the last kernel has its columns' part of the sums; Hebb's dβ is summed along rows.
    by_columns = launch.cut(launch.config.gradient).column_blocks
    by_rows = launch.cut(launch.config.tile).row_blocks
    grad_decay = None if log_decay is None else launch.parts_by_token(by_columns)
    grad_beta = None if beta is None else launch.parts_by_token(by_columns if delta else by_rows)
    grad_initial = grad_final.clone()
    if q.shape[:3].numel():
        grad_y = rows_contiguous(grad_y, 3)
        start = None if initial_state is None else initial_state.float().contiguous()
        u = w = m = grad_u = None
        if delta:
            u, w, m = launch.written(keep=True)
        states, _ = launch.states(start, u, w)
        if delta:
            grad_u = launch.of_tokens(launch.rows)
            launch.read_back(grad_y, None, u=grad_u)
            ends, grad_initial = launch.ends(grad_y, grad_final, grad_u, w)
        else:
            ends, grad_initial = launch.ends(grad_y, grad_final, None, None)
            launch.read_back(grad_y, ends, out=grad_v, grad_beta=grad_beta)
        launch.gradients(
            grad_y=grad_y, u=u, grad_u=grad_u, m=m, states=states, ends=ends, grad_q=grad_q, grad_k=grad_k,
            grad_decay=grad_decay, grad_v=grad_v if delta else None, grad_beta=grad_beta if delta else None,
        )  # fmt: skip
    grad_decay, grad_beta = (None if g is None else g.sum(0) for g in (grad_decay, grad_beta))
    if log_decay is not None and log_decay.ndim == 1:
        grad_decay = grad_decay.sum((0, 1))
    return grad_q, grad_k, grad_v, grad_decay, grad_beta, grad_initial
