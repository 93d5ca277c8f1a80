"""rotation_scan in fast PyTorch: short chunks in step with each other, their carries in float64.

Pairs are complex numbers and ``a_t = exp(λ_t + iθ_t)``. Time is cut into chunks of 8 steps. One complex
multiply-add advances all chunks of a block by a step, so a block of K chunks takes 8 large ops, not 8 K small
ones: first from zero, for each chunk's own end; then the state is carried over the chunks, through the
product of each one's factors; then again, from the states so found. A gate γ puts ``σ(γ_t) x_t`` in x's
place, block by block, and makes ``1 − σ(γ_t)`` a factor of a_t. All on one thread: these ops are memory's
work in the cache, and waking a second thread for each costs more than it does.

Where the angle is constant, a chunk's turn is exact in float64 and so is the carried state: an undamped
rotation is rounded at most 8 times in float32 however long the sequence. A plain float32 loop is off by
1e-3 rad after 2·10^5 steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# conj_physical throughout: inside a custom op that runs in a compiled graph, conj()'s lazy bit is dropped.
from ..checks import gradient_dtype, state_dtype
from ..in_order import addcmul_in_order_
from ..packing import each_sequence
from ..pairs import as_complex
from ..phases import phase_from_radians, radians_from_phase
from ..threads import one_thread

_CHUNK = 8
_BLOCK = 1 << 18  # complex numbers worked on at a time: 2 MB in complex64, for the cache


def forward(
    x: Tensor,
    angle: Tensor,
    log_decay: Tensor | None,
    gate: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like x, final_state)``."""
    h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = torch.zeros(rows, *x.shape[2:], dtype=torch.float64, device=x.device)
    if initial_state is not None:
        state.copy_(initial_state)

    def one(
        h: Tensor, x: Tensor, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, state: Tensor
    ) -> tuple[Tensor, ...]:
        factors = _Factors(angle, log_decay, gate, x)
        for begin, end, chunk in _blocks(x):
            inputs = as_complex(x[:, begin:end])
            if gate is not None:
                inputs = inputs * _opened(gate[:, begin:end], factors.real)
            along = factors.along(begin, end, chunk)
            _advance(h[:, begin:end], inputs, torch.view_as_complex(state), along)
        return ()

    with one_thread():
        if cu_seqlens is None:
            one(h, x, angle, log_decay, gate, state)
        else:
            each_sequence(cu_seqlens, (h, x, angle, log_decay, gate), (state,), one)
    return h, state.to(state_dtype(x))


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
    With g_t = dL/dh_t (direct) and G_t the whole gradient of h_t, backward in time:
      G_t = g_t + conj(a_{t+1}) G_{t+1},     G_{T-1} = g_{T-1} + dL/d(final_state)
      dx_t = G_t,     d(initial_state) = conj(a_0) G_0
      w_t = G_t conj(a_t h_{t-1}),     dλ_t = Re w_t,     dθ_t = Im w_t    (summed where λ or θ is constant)
    With a gate, g = σ(γ_t): a_t = (1 − g) exp(λ_t + iθ_t) and the input is g x_t, so
      dx_t = g G_t,     dγ_t = g (1 − g) Re(conj(G_t) x_t) − g Re w_t
    """
    grad_x = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    grad_angle = _gradient(angle, h) if needs_parameters else None
    grad_decay = _gradient(log_decay, h) if needs_parameters and log_decay is not None else None
    grad_gate = _gradient(gate, h) if needs_parameters and gate is not None else None
    grad_initial = torch.empty(grad_final.shape, dtype=torch.float64, device=h.device).copy_(grad_final)

    def one(
        grad_x: Tensor,
        grad_h: Tensor,
        h: Tensor,
        x: Tensor | None,
        angle: Tensor,
        log_decay: Tensor | None,
        gate: Tensor | None,
        grad_angle: Tensor | None,
        grad_decay: Tensor | None,
        grad_gate: Tensor | None,
        grad_state: Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, ...]:
        factors = _Factors(angle, log_decay, gate, h, conjugate=True)
        state = torch.zeros_like(torch.view_as_complex(grad_state))
        summed = state.new_zeros(h.shape[2])
        for begin, end, chunk in reversed(_blocks(h)):
            g = as_complex(grad_h[:, begin:end])
            if end == h.shape[1]:
                g = g.clone()
                g[:, -1] += torch.view_as_complex(grad_state)
            along = factors.along_backward(begin, end, chunk)
            G = _advance(grad_x[:, begin:end], g, state, along, reverse=True)
            if needs_parameters:
                w = _before(h, start, begin, end).conj_physical().mul_(G)
                if factors.constant:
                    summed += w.sum((0, 1))
                else:
                    w *= along.own
                    _give(grad_angle, begin, end, w, "imag")
                    _give(grad_decay, begin, end, w, "real")
            if gate is not None:
                opened = _opened(gate[:, begin:end], factors.real)
                if needs_parameters:
                    along_x = (G.conj_physical() * as_complex(x[:, begin:end])).real
                    closed = _opened(-gate[:, begin:end], factors.real)
                    grad_gate[:, begin:end] = opened * (closed * along_x - w.real)
                grad_x[:, begin:end] = torch.view_as_real(G * opened)
        if factors.constant and needs_parameters:
            w = (summed * factors.powers[1]).expand(1, 1, -1)
            _give(grad_angle, 0, 1, w, "imag")
            _give(grad_decay, 0, 1, w, "real")
        if h.shape[1] > 0:
            first = factors.powers[1] if factors.constant else along.own[:, 0]
            torch.view_as_complex(grad_state).copy_(state * first)
        return ()

    tensors = (grad_x, grad_h, h, x, angle, log_decay, gate, grad_angle, grad_decay, grad_gate)
    with one_thread():
        if cu_seqlens is None:
            one(*tensors, grad_initial, initial_state)
        else:
            each_sequence(cu_seqlens, tensors, (grad_initial, initial_state), one)
    return grad_x, grad_angle, grad_decay, grad_gate, grad_initial.to(grad_final.dtype)


class _Factors:
    """The factors a_t of one sequence, or their conjugates, and their products along chunks.

    Attributes:
        constant: angle and decay are both ``[D]``: all chunks share one table.
        powers: then ``a^0 … a^8``, ``[9, D]`` complex128.
    """

    def __init__(
        self,
        angle: Tensor,
        log_decay: Tensor | None,
        gate: Tensor | None,
        like: Tensor,
        conjugate: bool = False,
    ) -> None:
        self.real = state_dtype(like)
        self.complex = torch.complex128 if self.real == torch.float64 else torch.complex64
        self.angle = angle
        self.log_decay = log_decay
        self.gate = gate
        self.conjugate = conjugate
        self.turning = angle.ndim == 1
        self.constant = self.turning and gate is None and (log_decay is None or log_decay.ndim == 1)
        if self.turning:
            counts = torch.arange(_CHUNK + 1, device=angle.device).unsqueeze(1)
            phases = radians_from_phase(phase_from_radians(angle) * counts)
            self.turns = torch.polar(torch.ones_like(phases), -phases if conjugate else phases)
        if self.constant:
            decay = 0.0 if log_decay is None else counts * log_decay.double()
            self.powers = self.turns * torch.as_tensor(decay, device=angle.device).exp()

    def along(self, begin: int, end: int, chunk: int) -> "_Along":
        """For the scan of steps begin … end − 1."""
        if self.constant:
            a = self.powers[1].to(self.complex).expand(chunk, -1)
            return _Along(a, self.powers[chunk], a)
        a, decay = self.tokens(begin, end)
        return self._chunked(a, a, decay, chunk)

    def along_backward(self, begin: int, end: int, chunk: int) -> "_Along":
        """For the adjoint's, from conjugates: the factor of step t is ``conj(a_{t+1})``."""
        if self.constant:
            return self.along(begin, end, chunk)
        a, decay = self.tokens(begin, end + 1)
        return self._chunked(a[:, :-1], a[:, 1:], decay[:, 1:], chunk)

    def _chunked(self, own: Tensor, a: Tensor, decay: Tensor, chunk: int) -> "_Along":
        a = a.unflatten(1, (-1, chunk))
        if not self.turning:
            return _Along(a, _product(a).to(torch.complex128), own)
        return _Along(a, _product(decay.unflatten(1, (-1, chunk))) * self.turns[chunk], own)

    def tokens(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """``(a_t, |a_t|)`` of steps begin … end − 1, ``[B or 1, steps, D]``; 1 past the sequence's end."""
        if self.turning:
            # Rounded once: of an angle rounded to float32, eight turns would be off by 1e-6.
            turn = torch.view_as_real(self.turns[1]).to(self.real)
            cos, sin = turn.unbind(-1)
            cos, sin = cos.expand(1, end - begin, -1), sin.expand(1, end - begin, -1)
        else:
            θ = _padded(self.angle, begin, end)
            θ = radians_from_phase(θ, self.real)
            cos, sin = θ.cos(), θ.sin()
            if self.conjugate:
                sin.neg_()
        if self.log_decay is None:
            decay = torch.ones_like(cos)
        elif self.log_decay.ndim == 1:
            decay = self.log_decay.to(self.real).exp().expand_as(cos)
        else:
            decay = _padded(self.log_decay, begin, end).to(self.real).exp()
        if self.gate is not None:
            decay = decay * _opened(-_padded(self.gate, begin, end), self.real)
        a = torch.empty(decay.shape, dtype=self.complex, device=decay.device)
        torch.mul(decay, cos, out=a.real)
        torch.mul(decay, sin, out=a.imag)
        return a, decay


class _Along(NamedTuple):
    """What one block of chunks is scanned by.

    Attributes:
        factors: of each step, broadcasting to ``[B, chunks, chunk, D]``.
        total: their product over each chunk, complex128, broadcasting to ``[B, chunks, D]``.
        own: those of the steps themselves, broadcasting to ``[B, steps, D]`` where they are not constant.
    """

    factors: Tensor
    total: Tensor
    own: Tensor


def _advance(out: Tensor, x: Tensor, state: Tensor, along: _Along, reverse: bool = False) -> Tensor:
    # Scan one block of complex x, [B, steps, D], from `state` (complex128, which moves on) into out; returns
    # the values as complex numbers.
    a, chunk = along.factors.unbind(-2), along.factors.shape[-2]
    direct = out.dtype == x.real.dtype
    target = torch.view_as_complex(out) if direct else torch.empty_like(x)
    values, inputs = (t.unflatten(1, (-1, chunk)).unbind(2) for t in (target, x))
    steps = range(chunk)[::-1] if reverse else range(chunk)
    end = inputs[steps[0]].clone()
    for c in steps[1:]:
        torch.addcmul(inputs[c], a[c], end, out=end)
    ends = end.to(state.dtype)
    own, total = (t.unbind(1)[:: -1 if reverse else 1] for t in (ends, along.total.expand(ends.shape)))
    entering = (state, *own[:-1])
    addcmul_in_order_(own, total, entering)
    previous = torch.stack(entering[:: -1 if reverse else 1], dim=1).to(end.dtype)
    state.copy_(own[-1])
    for c in steps:
        previous = torch.addcmul(inputs[c], a[c], previous, out=values[c])
    if not direct:
        out.copy_(torch.view_as_real(target))
    return target


def _blocks(x: Tensor) -> list[tuple[int, int, int]]:
    # (begin, end, chunk): whole chunks in blocks that fit the cache, then what is left as one short chunk.
    length = x.shape[1]
    lanes = max(1, x.shape[0] * x.shape[2])
    steps = _CHUNK * max(1, _BLOCK // (lanes * _CHUNK))
    whole = length - length % _CHUNK
    blocks = [(begin, min(begin + steps, whole), _CHUNK) for begin in range(0, whole, steps)]
    return blocks + [(whole, length, length - whole)] * (whole < length)


def _before(h: Tensor, start: Tensor | None, begin: int, end: int) -> Tensor:
    # h_{t-1} of steps begin … end − 1.
    if begin > 0:
        return as_complex(h[:, begin - 1 : end - 1])
    first = torch.zeros_like(h[:, :1]) if start is None else start.unsqueeze(1)
    return as_complex(torch.cat([first.to(state_dtype(h)), h[:, : end - 1].to(state_dtype(h))], dim=1))


def _padded(parameter: Tensor, begin: int, end: int) -> Tensor:
    # Steps begin … end − 1 of a [B, T, D] parameter, zeros past T (no state is left there to act on).
    piece = parameter[:, begin:end]
    missing = end - begin - piece.shape[1]
    return torch.cat([piece, torch.zeros_like(parameter[:, :1])], dim=1) if missing else piece


def _product(a: Tensor) -> Tensor:
    # Over dimension 2, step by step.
    first, *others = a.unbind(2)
    product = first.clone()
    for factor in others:
        product.mul_(factor)
    return product


def _opened(gate: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.sigmoid(gate.to(dtype))


def _gradient(parameter: Tensor, h: Tensor) -> Tensor:
    # Sums over time are collected in the state's dtype, gradients by token are written once in their own.
    if parameter.ndim == 3:
        return torch.empty(parameter.shape, dtype=gradient_dtype(parameter, h), device=h.device)
    return torch.zeros(parameter.shape, dtype=state_dtype(h), device=h.device)


def _give(grad: Tensor | None, begin: int, end: int, w: Tensor, part: str) -> None:
    # Of w, [B, steps, D]: `part` is "real" or "imag".
    if grad is None:
        return
    if grad.ndim == 3:
        grad[:, begin:end] = getattr(w, part)
    else:
        grad.add_(getattr(w.sum((0, 1)), part))


def step_(x: Tensor, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, state: Tensor) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    dtype = x.dtype
    # The turn is formed in float64, so that only the state's own rounding is left.
    θ = radians_from_phase(angle)
    ρ = torch.ones_like(θ) if log_decay is None else log_decay.double().exp()
    if gate is not None:
        opened = _opened(gate, torch.float64)
        ρ = ρ * _opened(-gate, torch.float64)
        x = x * opened.unsqueeze(-1)
    a = torch.polar(*torch.broadcast_tensors(ρ, θ))
    turned = torch.view_as_real(torch.view_as_complex(state.double()) * a)
    state.copy_(turned.add_(x))
    return state.to(dtype, copy=True)
