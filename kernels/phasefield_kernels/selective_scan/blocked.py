"""selective_scan in fast PyTorch: chunks that fit the cache, states kept at their starts alone.

Inside a chunk of a few steps ``exp(Δ_t A)`` and ``Δ_t B_t x_t`` of all steps are formed by large ops, then
one multiply-add a step advances the state, and y is one batched product with C. The backward recomputes
a chunk's states from its start. Only ``exp(Δ A) ≤ 1`` is ever formed: nothing can overflow.

States lie as ``[steps, B, G, N, P]`` (P = D / G channels of one of the G groups of B and C), so that what
broadcasts over N has its channels side by side. Complex A, B, C and h are complex numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..packing import each_sequence

_CHUNK = 1 << 19  # state elements of a chunk: 2 MB in float32, for the cache


class Inputs(NamedTuple):
    """The op's inputs; ``tokens`` have a time axis."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    A: Tensor
    D: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool

    def pieces(self) -> tuple[Tensor | None, ...]:
        """x, dt, B, C and z."""
        return self[:5]

    def of(self, pieces: tuple[Tensor | None, ...]) -> "Inputs":
        """The same parameters with a sequence's own tokens."""
        return Inputs(*pieces, *self[5:])


def forward(
    inputs: Inputs, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(y, final_state, starts)``: starts are the states at the chunks' starts, flat, for the backward."""
    x, A = inputs.x, inputs.A
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = state_dtype(x)
    final = torch.zeros(rows, *A.shape, dtype=dtype, device=x.device)
    if initial_state is not None:
        final.copy_(initial_state)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def one(y: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        *pieces, state = rest
        return (_forward(y, inputs.of(tuple(pieces)), state),)

    if cu_seqlens is None:
        starts = [one(y, *inputs.pieces(), final)]
    else:
        starts = each_sequence(cu_seqlens, (y, *inputs.pieces()), (final,), one)
    parts = [part for (part,) in starts]
    return y, final, torch.cat(parts) if parts else x.new_empty(0, dtype=dtype)


def backward(
    grad_y: Tensor, grad_final: Tensor, starts: Tensor, inputs: Inputs, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients to x, dt, B, C, z, A, D, dt_bias (None for those not given) and initial_state.

    With a_t = exp(Δ_t A), s = 1 (or 2 for complex A), ȳ_t = dL/d(C_t h_t + D x_t) and conjugates where there
    are complex numbers, backward in time:
      G_t = s conj(C_t) ȳ_t + conj(a_{t+1}) G_{t+1},    G_{T-1} gets dL/d(final_state) as well
      dC_t = s Σ_p ȳ_t conj(h_t),     dB_t = Σ_p Δ_t x_t G_t,     d(initial_state) = conj(a_0) G_0
      Q_t = G_t conj(a_t h_{t-1}),    dA = Σ Δ_t Q_t,             w_t = Re Σ_n conj(B_t) G_t
      dΔ_t = Re Σ_n conj(A) Q_t + w_t x_t,     dx_t = w_t Δ_t + D ȳ_t,     dD = Σ ȳ_t x_t
    and dt gets dΔ through the softplus, z its gradient through silu.
    """
    grads = [None if t is None else torch.zeros(t.shape, dtype=_wide(t), device=t.device) for t in inputs[:8]]
    grad_initial = grad_final.clone()
    taken = 0

    def one(*rest: Tensor | None) -> tuple[Tensor, ...]:
        nonlocal taken
        grad_y, *rest, carry = rest
        pieces, grad_pieces = rest[:5], rest[5:]
        own = inputs.of(tuple(pieces))
        size = saved_numel(own.x.shape, own.A.shape)
        _backward(grad_y, own, starts[taken : taken + size], [*grad_pieces, *grads[5:]], carry)
        taken += size
        return ()

    tokens = (grad_y, *inputs.pieces(), *grads[:5])
    if cu_seqlens is None:
        one(*tokens, grad_initial)
    else:
        each_sequence(cu_seqlens, tokens, (grad_initial,), one)
    return *(g if g is None else g.to(t.dtype) for g, t in zip(grads, inputs[:8], strict=True)), grad_initial


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def saved_numel(shape: tuple[int, ...], A_shape: tuple[int, ...]) -> int:
    """Floats of the start states of one batch of sequences' chunks, x ``[B, T, D]``."""
    batch, length, width = shape
    numbers = batch * width * A_shape[1] * (2 if len(A_shape) == 3 else 1)
    return -(-length // _chunk_length(numbers)) * numbers


def _chunk_length(numbers: int) -> int:
    # 4 to 64 steps: powers of two, so that few lengths come up.
    chunk = 4
    while 2 * chunk * max(1, numbers) <= _CHUNK and chunk < 64:
        chunk *= 2
    return chunk


class _Layout:
    """How one call's tensors are laid out, and its parameters in that layout."""

    def __init__(self, inputs: Inputs) -> None:
        x, A = inputs.x, inputs.A
        self.inputs = inputs
        self.dtype = state_dtype(x)
        self.complex = A.ndim == 3
        self.batch, self.length, self.width = x.shape
        self.states = A.shape[1]
        self.groups = inputs.B.shape[2] if inputs.B.ndim == 4 + self.complex else 1
        self.channels = self.width // self.groups
        self.scale = 2 if self.complex else 1
        self.chunk = _chunk_length(self.batch * self.width * self.states * self.scale)
        A = self.numbers(A)
        self.A = A.view(self.groups, self.channels, self.states).mT.contiguous()
        self.shape = (self.batch, self.groups, self.states, self.channels)

    def spans(self) -> list[tuple[int, int]]:
        """(begin, end) of each chunk."""
        return [(t, min(t + self.chunk, self.length)) for t in range(0, self.length, self.chunk)]

    def numbers(self, tensor: Tensor) -> Tensor:
        """In the state's dtype; as complex numbers if A is complex."""
        tensor = tensor.to(self.dtype)
        return (
            torch.view_as_complex(tensor.clone(memory_format=torch.contiguous_format))
            if self.complex
            else tensor
        )

    def floats(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`numbers`."""
        return torch.view_as_real(tensor) if self.complex else tensor

    def by_channel(self, tensor: Tensor, begin: int, end: int) -> Tensor:
        """``[B, T, D]`` → a copy ``[steps, B, G, 1, P]`` of a chunk."""
        piece = tensor[:, begin:end].transpose(0, 1).to(self.dtype, copy=True)
        return piece.contiguous().view(end - begin, self.batch, self.groups, 1, self.channels)

    def by_state(self, tensor: Tensor, begin: int, end: int) -> Tensor:
        """``[B, T, (G,) N(, 2)]`` → a copy ``[steps, B, G, N, 1]`` of a chunk."""
        piece = self.numbers(tensor[:, begin:end].transpose(0, 1))
        return piece.reshape(end - begin, self.batch, self.groups, self.states, 1)

    def delta(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Δ of a chunk, and what it is the softplus of, as :meth:`by_channel`."""
        raw = self.by_channel(self.inputs.dt, begin, end)
        if self.inputs.dt_bias is not None:
            raw += self.inputs.dt_bias.to(self.dtype).view(self.groups, 1, self.channels)
        return (F.softplus(raw) if self.inputs.dt_softplus else raw), raw

    def parameter(self, tensor: Tensor) -> Tensor:
        """``[D]`` → ``[G, 1, P]``."""
        return tensor.to(self.dtype).view(self.groups, 1, self.channels)

    def state_in(self, state: Tensor) -> Tensor:
        """``[B, D, N(, 2)]`` → a copy ``[B, G, N, P]``."""
        view = self.numbers(state).view(self.batch, self.groups, self.channels, self.states)
        return view.mT.clone(memory_format=torch.contiguous_format)

    def state_out(self, state: Tensor) -> Tensor:
        """The inverse of :meth:`state_in`."""
        whole = state.mT.reshape(self.batch, self.width, self.states)
        return self.floats(whole)


class _Workspace:
    """Buffers of one chunk, used by every chunk: fresh ones would cost page faults."""

    def __init__(self, layout: _Layout, count: int) -> None:
        kind = layout.A.dtype
        device = layout.A.device
        steps = min(layout.chunk, max(1, layout.length)) + 1
        self._buffers = [torch.empty(steps, *layout.shape, dtype=kind, device=device) for _ in range(count)]

    def __call__(self, index: int, steps: int) -> Tensor:
        return self._buffers[index][:steps]


def _states(
    layout: _Layout, delta: Tensor, x: Tensor, B: Tensor, start: Tensor, factors: Tensor, h: Tensor
) -> Tensor:
    # Fills factors with exp(Δ_t A) and h with the states; returns the last one.
    torch.mul(delta, layout.A, out=factors)
    factors.exp_()
    torch.mul(delta * x, B, out=h)
    last = start
    for h_t, factor_t in zip(h.unbind(0), factors.unbind(0), strict=True):
        last = h_t.addcmul_(factor_t, last)
    return last


def _read(C: Tensor, h: Tensor, layout: _Layout) -> Tensor:
    # C_t h_t, [steps, B, G, 1, P], real.
    y = torch.matmul(C.mT, h)
    return 2 * y.real if layout.complex else y


def _forward(y: Tensor, inputs: Inputs, state: Tensor) -> Tensor:
    # Fills y, moves the state on, and returns the chunks' start states.
    layout = _Layout(inputs)
    spans = layout.spans()
    h = layout.state_in(state)
    starts = torch.empty(len(spans), *h.shape, dtype=h.dtype, device=h.device)
    work = _Workspace(layout, 2)
    D = None if inputs.D is None else layout.parameter(inputs.D)
    for (begin, end), start in zip(spans, starts.unbind(0), strict=True):
        steps = end - begin
        start.copy_(h)
        x = layout.by_channel(inputs.x, begin, end)
        B, C = layout.by_state(inputs.B, begin, end), layout.by_state(inputs.C, begin, end)
        h_all = work(1, steps)
        h = _states(layout, layout.delta(begin, end)[0], x, B, start, work(0, steps), h_all)
        out = _read(C, h_all, layout)
        if D is not None:
            out = torch.addcmul(out, D, x)
        if inputs.z is not None:
            out = out * F.silu(layout.by_channel(inputs.z, begin, end))
        y[:, begin:end] = out.view(steps, layout.batch, layout.width).transpose(0, 1)
        h = start if steps == 0 else h
    if spans:
        state.copy_(layout.state_out(h))
    return layout.floats(starts).flatten()


def _backward(
    grad_y: Tensor, inputs: Inputs, starts: Tensor, grads: list[Tensor | None], carry: Tensor
) -> None:
    # Adds to grads (of x, dt, B, C, z, A, D, dt_bias) and turns `carry` into d(initial_state).
    layout = _Layout(inputs)
    grad_x, grad_dt, grad_B, grad_C, grad_z, grad_A, grad_D, grad_bias = grads
    spans = layout.spans()
    starts = starts.view(len(spans), *layout.shape, *((2,) if layout.complex else ()))
    starts = torch.view_as_complex(starts) if layout.complex else starts
    work = _Workspace(layout, 3)
    G_next = layout.state_in(carry)
    D = None if inputs.D is None else layout.parameter(inputs.D)
    conjugate_A = layout.A.conj_physical()
    sum_A = torch.zeros_like(layout.A)
    for (begin, end), start in zip(spans[::-1], starts.unbind(0)[::-1], strict=True):
        steps = end - begin
        x = layout.by_channel(inputs.x, begin, end)
        B, C = layout.by_state(inputs.B, begin, end), layout.by_state(inputs.C, begin, end)
        delta, raw = layout.delta(begin, end)
        factors = work(0, steps)
        before = work(1, steps + 1)
        before[0] = start
        h = before[1:]
        _states(layout, delta, x, B, start, factors, h)
        dy = layout.by_channel(grad_y, begin, end)
        if inputs.z is not None:
            z = layout.by_channel(inputs.z, begin, end)
            read = _read(C, h, layout)
            read = read if D is None else torch.addcmul(read, D, x)
            gate = torch.sigmoid(z)
            _put(grad_z, begin, end, dy * read * gate * (1 + z * (1 - gate)))
            dy = dy * z * gate
        number_dy = dy.to(layout.A.dtype)
        _put_states(grad_C, begin, end, layout.scale * torch.matmul(h.conj_physical(), number_dy.mT), layout)
        G = torch.mul(layout.scale * C.conj_physical(), dy, out=work(2, steps))
        factors = factors.conj_physical_() if layout.complex else factors
        for G_t, factor_next in zip(G.unbind(0)[::-1], [None, *factors.unbind(0)[:0:-1]], strict=True):
            G_next = G_t.add_(G_next) if factor_next is None else G_t.addcmul_(factor_next, G_next)
        G_next = factors[0] * G_next
        driven = delta * x
        _put_states(grad_B, begin, end, torch.matmul(G, driven.to(G.dtype).mT), layout)
        w = torch.matmul(B.conj_physical().mT, G)
        past = before[:-1].conj_physical_() if layout.complex else before[:-1]
        Q = G.mul_(factors).mul_(past)
        by_delta = (Q * conjugate_A).sum(-2, keepdim=True)
        w, by_delta = (w.real, by_delta.real) if layout.complex else (w, by_delta)
        sum_A += Q.mul_(delta).sum((0, 1))
        d_delta = torch.addcmul(by_delta, w, x)
        d_x = w * delta
        if D is not None:
            d_x = torch.addcmul(d_x, D, dy)
            grad_D += (dy * x).sum((0, 1)).flatten()
        if inputs.dt_softplus:
            d_delta = d_delta * torch.sigmoid(raw)
        if grad_bias is not None:
            grad_bias += d_delta.sum((0, 1)).flatten()
        _put(grad_x, begin, end, d_x)
        _put(grad_dt, begin, end, d_delta)
    if spans:
        carry.copy_(layout.state_out(G_next))
    grad_A += layout.floats(sum_A.mT.reshape(layout.width, layout.states))


def _put(grad: Tensor, begin: int, end: int, value: Tensor) -> None:
    # [steps, B, G, 1, P] into [B, T, D].
    grad[:, begin:end] = value.view(end - begin, grad.shape[0], grad.shape[2]).transpose(0, 1)


def _put_states(grad: Tensor, begin: int, end: int, value: Tensor, layout: _Layout) -> None:
    # [steps, B, G, N, 1] into [B, T, (G,) N(, 2)].
    value = layout.floats(value.squeeze(-1)).transpose(0, 1)
    grad[:, begin:end] = value.reshape(grad[:, begin:end].shape)


def step_(inputs: Inputs, state: Tensor) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    y = torch.empty(inputs.x.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    _forward(y, inputs, state)
    return y
