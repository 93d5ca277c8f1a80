"""selective_scan in fast PyTorch: tiles that fit a core's cache, states kept at their starts alone.

A *tile* is a few lanes (sequences and channels), and is worked through in *spans* of a few steps. In a span
``exp(Δ_t A)`` and ``Δ_t B_t x_t`` of all steps are formed by large ops, then one multiply-add a step advances
the state, and y is one batched product with C. The backward recomputes a span's states from its start. Only
``exp(Δ A) ≤ 1`` is ever formed: nothing can overflow. What has no state axis is worked on in blocks of spans.

A span's tensors take 0.5 MB each and three are in use at a time, so that they stay in the cache: an
elementwise op then takes 0.1 ns a number, where one that allocates its result afresh takes 0.8. They are too
small for a second thread, whose waking costs more than such an op. The views of all spans of a block are
made at once, and a span's steps are one call.

States lie as ``[B, steps, G, N, P]`` (P = D / G channels of one of the G groups of B and C), so that what
broadcasts over N has its channels side by side. Complex A, B, C and h are complex numbers.
"""

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import state_dtype
from ..in_order import addcmul_in_order_
from ..packing import each_sequence, joined
from ..threads import one_thread
from .tiles import Inputs, Layout, Room, saved_numel, tiles


def forward(
    inputs: Inputs, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(y, final_state, starts)``: starts are the states at the spans' starts, flat, for the backward."""
    x, A = inputs.x, inputs.A
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = state_dtype(x)
    final = torch.zeros(rows, *A.shape, dtype=dtype, device=x.device)
    if initial_state is not None:
        final.copy_(initial_state)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def one(y: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        *pieces, state = rest
        return (_scan(inputs.of(tuple(pieces)), y, state),)

    with one_thread():
        if cu_seqlens is None:
            (starts,) = one(y, *inputs.pieces(), final)
        else:
            parts = each_sequence(cu_seqlens, (y, *inputs.pieces()), (final,), one)
            starts = joined([part for (part,) in parts], 0, x.new_empty(0, dtype=dtype))
    return y, final, starts


def backward(
    grad_y: Tensor, grad_final: Tensor, starts: Tensor, inputs: Inputs, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients to x, dt, B, C, z, A, D, dt_bias (None for those not given) and initial_state.

    With a_t = exp(Δ_t A), s = 1 (or 2 for complex A), ȳ_t = dL/d(C_t h_t + D x_t) and G_t the conjugate of
    the whole gradient to h_t, backward in time:
      G_t = s C_t ȳ_t + a_{t+1} G_{t+1},     G_{T-1} gets conj(dL/d(final_state)) as well
      conj(dC_t) = s Σ_p ȳ_t h_t,     conj(dB_t) = Σ_p Δ_t x_t G_t,     conj(d(initial_state)) = a_0 G_0
      Q_t = G_t a_t h_{t-1},     conj(dA) = Σ Δ_t Q_t,     w_t = Re Σ_n B_t G_t
      dΔ_t = Re Σ_n A Q_t + w_t x_t,     dx_t = w_t Δ_t + D ȳ_t,     dD = Σ ȳ_t x_t
    and dt gets dΔ through the softplus, z its gradient through silu.
    """
    # Gradients to x, dt and z are written once; those to B and C add up over channels, those to the
    # parameters over everything.
    written = ("x", "dt", "z")
    grads = inputs._replace(
        **{
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            if name in written
            else torch.zeros(tensor.shape, dtype=state_dtype(tensor), device=tensor.device)
            for name, tensor in zip(Inputs._fields[:8], inputs[:8], strict=True)
            if tensor is not None
        }
    )
    grad_initial = grad_final.clone(memory_format=torch.contiguous_format)
    taken = 0

    def one(grad_y: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        nonlocal taken
        *rest, carry = rest
        own, own_grads = inputs.of(tuple(rest[:5])), grads.of(tuple(rest[5:]))
        size = saved_numel(own.x.shape, own.A.shape)
        for tile, part in tiles(own, starts[taken : taken + size]):
            layout = Layout(tile.inputs(own), part, tile.span)
            _backward(layout, tile.tokens(grad_y), tile.inputs(own_grads), tile.states(carry))
        taken += size
        return ()

    tokens = (grad_y, *inputs.pieces(), *grads.pieces())
    with one_thread():
        if cu_seqlens is None:
            one(*tokens, grad_initial)
        else:
            each_sequence(cu_seqlens, tokens, (grad_initial,), one)
    return *(
        g if g is None else g.to(t.dtype) for g, t in zip(grads[:8], inputs[:8], strict=True)
    ), grad_initial


def _states(span: SimpleNamespace, A: Tensor, factors: Room, h: Room) -> None:
    # Fills factors with exp(Δ_t A) and h with the states, Δ_t x_t being `driven`.
    torch.mul(span.delta, A, out=factors.all).exp_()
    torch.mul(span.driven, span.B, out=h.all)
    addcmul_in_order_(h.steps, factors.steps, (span.start, *h.steps[:-1]))


def _read(C: Tensor, h: Room) -> Tensor:
    # C_t h_t, [B, steps, G, 1, P], real; C is [B, steps, G, 1, N].
    y = torch.matmul(C, h.all)
    return 2 * y.real if y.is_complex() else y


def _scan(inputs: Inputs, y: Tensor, state: Tensor) -> Tensor:
    # Fills y and moves the state on, tile by tile; returns the start states.
    size = saved_numel(inputs.x.shape, inputs.A.shape)
    starts = torch.empty(size, dtype=state.dtype, device=state.device)
    for tile, part in tiles(inputs, starts):
        _forward(Layout(tile.inputs(inputs), part, tile.span), tile.tokens(y), tile.states(state))
    return starts


def _forward(layout: Layout, y: Tensor, state: Tensor) -> None:
    # Fills y and the start states, and moves the state on.
    inputs, last = layout.inputs, layout.state_in(state)
    rooms = layout.workspace(2)
    for begin, end in layout.blocks():
        x = layout.by_channel(inputs.x, begin, end)
        B, C = layout.by_state(inputs.B, begin, end), layout.by_state(inputs.C, begin, end)
        delta, _ = layout.delta(begin, end)
        driven = delta * x
        out = torch.empty_like(driven)
        for span in layout.spans(begin, end, delta=delta, driven=driven, B=B, C=C.mT, out=out):
            factors, h = rooms[span.delta.shape[1]]
            span.start.copy_(last)
            _states(span, layout.A, factors, h)
            last = h.steps[-1]
            span.out.copy_(_read(span.C, h))
        if layout.D is not None:
            out.addcmul_(layout.D, x)
        if inputs.z is not None:
            out *= F.silu(layout.by_channel(inputs.z, begin, end))
        y[:, begin:end] = out.flatten(2)
    state.copy_(layout.state_out(last))


def _backward(layout: Layout, grad_y: Tensor, grads: Inputs, carry: Tensor) -> None:
    # Writes or adds to the gradients, and turns `carry` into d(initial_state).
    inputs = layout.inputs
    scale = 2 if layout.complex else 1
    G_first = layout.state_in(carry).conj_physical()
    sum_A = torch.zeros_like(G_first)
    rooms = layout.workspace(3)
    for begin, end in reversed(layout.blocks()):
        x = layout.by_channel(inputs.x, begin, end)
        B, C = layout.by_state(inputs.B, begin, end), layout.by_state(inputs.C, begin, end)
        delta, raw = layout.delta(begin, end)
        driven = delta * x
        dy = layout.by_channel(grad_y, begin, end)
        if inputs.z is not None:
            grad_out, z = dy, layout.by_channel(inputs.z, begin, end)
            dy = grad_out * F.silu(z)
        read, by_x, by_delta = (torch.empty_like(driven) for _ in range(3))
        by_B, by_C = (torch.empty_like(B.mT) for _ in range(2))
        number = layout.A.dtype
        spans = layout.spans(
            begin,
            end,
            delta=delta,
            driven=driven,
            dy=dy,
            number_delta=delta.to(number),
            number_driven=driven.to(number),
            number_dy=dy.to(number),
            B=B,
            B_row=B.mT,
            C=C.mT,
            scaled_C=scale * C,
            read=read,
            by_x=by_x,
            by_delta=by_delta,
            by_B=by_B,
            by_C=by_C,
        )
        for span in reversed(spans):
            factors, h, G = rooms[span.delta.shape[1]]
            _states(span, layout.A, factors, h)
            if inputs.z is not None:
                span.read.copy_(_read(span.C, h))
            span.by_C.copy_(torch.matmul(span.number_dy, h.all.mT))
            # G_t, last to first; a_0 G_0 goes on to the span before.
            torch.mul(span.scaled_C, span.dy, out=G.all)
            G_t, a_t = G.steps[::-1], factors.steps[::-1]
            G_t[0].add_(G_first)
            addcmul_in_order_(G_t[1:], a_t[:-1], G_t[:-1])
            torch.mul(a_t[-1], G_t[-1], out=G_first)
            span.by_B.copy_(torch.matmul(span.number_driven, G.all.mT))
            span.by_x.copy_(_real(torch.matmul(span.B_row, G.all)))
            Q = G.all.mul_(factors.all)
            Q[:, 1:] *= h.all[:, :-1]
            Q[:, 0] *= span.start
            span.by_delta.copy_(_real(torch.mul(Q, layout.A, out=h.all).sum(-2, keepdim=True)))
            addcmul_in_order_([sum_A] * len(G_t), G.steps, span.number_delta.unbind(1))
        d_delta, d_x = by_delta.addcmul_(by_x, x), by_x * delta
        if layout.D is not None:
            d_x.addcmul_(layout.D, dy)
            grads.D.add_((dy * x).sum((0, 1)).flatten())
        if inputs.z is not None:
            gate = torch.sigmoid(z)
            read = read if layout.D is None else read.addcmul_(layout.D, x)
            grads.z[:, begin:end] = (grad_out * read * gate * (1 + z * (1 - gate))).flatten(2)
        if inputs.dt_softplus:
            d_delta *= torch.sigmoid(raw)
        if inputs.dt_bias is not None:
            grads.dt_bias.add_(d_delta.sum((0, 1)).flatten())
        grads.x[:, begin:end] = d_x.flatten(2)
        grads.dt[:, begin:end] = d_delta.flatten(2)
        grads.B[:, begin:end] += _floats_of(by_B.squeeze(-2))
        grads.C[:, begin:end] += _floats_of(scale * by_C.squeeze(-2))
    carry.copy_(layout.state_out(G_first.conj_physical()))
    grads.A.add_(layout.state_out(sum_A.sum(0).conj_physical()))


def _real(tensor: Tensor) -> Tensor:
    return tensor.real if tensor.is_complex() else tensor


def _floats_of(conjugated: Tensor) -> Tensor:
    # Conjugates of gradients as gradients, the real and the imaginary part last.
    return torch.view_as_real(conjugated.conj_physical()) if conjugated.is_complex() else conjugated
