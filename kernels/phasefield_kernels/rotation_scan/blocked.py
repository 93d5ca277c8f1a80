"""rotation_scan in fast PyTorch: short chunks in step with each other, their carries in float64.

Pairs are complex numbers and ``a_t = exp(λ_t + iθ_t)``. Time is cut into chunks of 8 steps. One complex
multiply-add advances all chunks of a block by a step, so a block of K chunks takes 8 large ops, not
8 K small ones. The state is then carried over the chunks, and added to every step through the product
of the factors between them. A gate γ puts ``σ(γ_t) x_t`` in x's place, block by block, and makes
``1 − σ(γ_t)`` a factor of a_t.

Where the angle is constant, turns over a chunk and within it come from tables formed in float64 and
the carried state is float64: an undamped rotation is rounded at most 8 times in float32 however long
the sequence. A plain float32 loop is off by 1e-3 rad after 2·10^5 steps.
"""

import torch
from torch import Tensor

# conj_physical throughout: inside a custom op that runs in a compiled graph, conj()'s lazy bit is dropped.
from ..checks import gradient_dtype, state_dtype
from ..packing import each_sequence
from ..phases import phase_from_radians, radians_from_phase

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
            inputs = _complex(x[:, begin:end])
            if gate is not None:
                inputs = inputs * _opened(gate[:, begin:end], factors.real)
            _advance(h, inputs, torch.view_as_complex(state), factors, begin, end, chunk)
        return ()

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
      w_t = conj(G_t) a_t h_{t-1},     dλ_t = Re w_t,     dθ_t = −Im w_t    (summed where λ or θ is constant)
    With a gate, g = σ(γ_t): a_t = (1 − g) exp(λ_t + iθ_t) and the input is g x_t, so
      dx_t = g G_t,     dγ_t = g (1 − g) Re(conj(G_t) x_t) − g Re w_t
    """
    grad_x = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    grad_angle = _zero_gradient(angle, h) if needs_parameters else None
    grad_decay = _zero_gradient(log_decay, h) if needs_parameters and log_decay is not None else None
    grad_gate = _zero_gradient(gate, h) if needs_parameters and gate is not None else None
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
        factors = _Factors(angle, log_decay, gate, h)
        state = torch.zeros_like(torch.view_as_complex(grad_state))
        summed = state.new_zeros(h.shape[2])
        for begin, end, chunk in reversed(_blocks(h)):
            g = _complex(grad_h[:, begin:end])
            if end == h.shape[1]:
                g = g.clone()
                g[:, -1] += torch.view_as_complex(grad_state)
            G = _advance(grad_x, g, state, factors, begin, end, chunk, reverse=True)
            if needs_parameters:
                w = G.conj_physical() * _before(h, start, begin, end)
                if factors.constant:
                    summed += w.sum((0, 1))
                else:
                    w *= factors.tokens(begin, end)[0]
                    _add(grad_angle, begin, end, -w.imag)
                    _add(grad_decay, begin, end, w.real)
            if gate is not None:
                opened = _opened(gate[:, begin:end], factors.real)
                if needs_parameters:
                    along_x = (G.conj_physical() * _complex(x[:, begin:end])).real
                    closed = _opened(-gate[:, begin:end], factors.real)
                    _add(grad_gate, begin, end, opened * (closed * along_x - w.real))
                grad_x[:, begin:end] = torch.view_as_real(G * opened)
        if factors.constant and needs_parameters:
            w = summed * factors.powers[1]
            _add(grad_angle, 0, 0, -w.imag.unsqueeze(0))
            _add(grad_decay, 0, 0, w.real.unsqueeze(0))
        if h.shape[1] > 0:
            first = factors.powers[1] if factors.constant else factors.tokens(0, 1)[0][:, 0]
            torch.view_as_complex(grad_state).copy_(state * first.conj_physical())
        return ()

    if cu_seqlens is None:
        parameters = (angle, log_decay, gate, grad_angle, grad_decay, grad_gate)
        one(grad_x, grad_h, h, x, *parameters, grad_initial, initial_state)
    else:
        tensors = (grad_x, grad_h, h, x, angle, log_decay, gate, grad_angle, grad_decay, grad_gate)
        each_sequence(cu_seqlens, tensors, (grad_initial, initial_state), one)
    return grad_x, grad_angle, grad_decay, grad_gate, grad_initial.to(grad_final.dtype)


class _Factors:
    """The factors a_t of one sequence, and their products along chunks.

    Attributes:
        constant: angle and decay are both ``[D]``: all chunks share one table.
        powers: then ``a^0 … a^8``, ``[9, D]`` complex128.
    """

    def __init__(self, angle: Tensor, log_decay: Tensor | None, gate: Tensor | None, like: Tensor) -> None:
        self.real = state_dtype(like)
        self.complex = torch.complex128 if self.real == torch.float64 else torch.complex64
        self.angle = angle
        self.log_decay = log_decay
        self.gate = gate
        self.turning = angle.ndim == 1
        self.constant = self.turning and gate is None and (log_decay is None or log_decay.ndim == 1)
        if self.turning:
            counts = torch.arange(_CHUNK + 1, device=angle.device).unsqueeze(1)
            phases = radians_from_phase(phase_from_radians(angle) * counts)
            self.turns = torch.polar(torch.ones_like(phases), phases)
        if self.constant:
            decay = 0.0 if log_decay is None else counts * log_decay.double()
            self.powers = self.turns * torch.as_tensor(decay, device=angle.device).exp()

    def along(self, begin: int, end: int, chunk: int, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``(factor of each step, product up to each step, product of the chunk)``.

        The first two broadcast to ``[B, chunks, chunk, D]``, the third, complex128, to ``[B, chunks, D]``.
        In reverse the factor of step t is ``conj(a_{t+1})`` and products run from the chunk's last step.
        """
        if self.constant:
            powers = self.powers[1 : chunk + 1]
            if reverse:
                powers = powers.conj_physical()
            a = powers[0].to(self.complex).expand(chunk, -1)
            return a, (powers.flip(0) if reverse else powers).to(self.complex), powers[-1]
        if not reverse:
            a, decay = self.tokens(begin, end)
        else:
            a, decay = self.tokens(begin + 1, end + 1)
            a = a.conj_physical()
        a, decay = a.unflatten(1, (-1, chunk)), decay.unflatten(1, (-1, chunk))
        last = 0 if reverse else -1
        if not self.turning:
            products = _running_product(a, reverse)
            return a, products, products[:, :, last].to(torch.complex128)
        turns = self.turns[1 : chunk + 1]
        if reverse:
            turns = turns.conj_physical().flip(0)
        decays = _running_product(decay, reverse)
        return a, decays * turns.to(self.complex), decays[:, :, last] * turns[last]

    def tokens(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """``(a_t, |a_t|)`` of steps begin … end − 1, ``[B or 1, steps, D]``; 1 past the sequence's end."""
        if self.turning:
            θ = radians_from_phase(self.angle, self.real)
            cos, sin = θ.cos().expand(1, end - begin, -1), θ.sin().expand(1, end - begin, -1)
        else:
            θ = _padded(self.angle, begin, end)
            θ = radians_from_phase(θ, self.real)
            cos, sin = θ.cos(), θ.sin()
        if self.log_decay is None:
            decay = torch.ones_like(cos)
        elif self.log_decay.ndim == 1:
            decay = self.log_decay.to(self.real).exp().expand_as(cos)
        else:
            decay = _padded(self.log_decay, begin, end).to(self.real).exp()
        if self.gate is not None:
            decay = decay * _opened(-_padded(self.gate, begin, end), self.real)
        return torch.view_as_complex(torch.stack([decay * cos, decay * sin], dim=-1)), decay


def _advance(
    out: Tensor,
    x: Tensor,
    state: Tensor,
    factors: _Factors,
    begin: int,
    end: int,
    chunk: int,
    reverse: bool = False,
) -> Tensor:
    # Scan one block of complex x from `state` (complex128, which moves on) into out[:, begin:end];
    # returns the values, [B, steps, D] complex.
    a, products, total = factors.along(begin, end, chunk, reverse)
    direct = out.dtype == factors.real
    target = (
        torch.view_as_complex(out[:, begin:end]) if direct else torch.empty_like(x, dtype=factors.complex)
    )
    by_chunk = target.unflatten(1, (-1, chunk))
    values, inputs, a = by_chunk.unbind(2), x.unflatten(1, (-1, chunk)).unbind(2), a.unbind(-2)
    steps = range(chunk)[::-1] if reverse else range(chunk)
    previous = values[steps[0]].copy_(inputs[steps[0]])
    for c in steps[1:]:
        previous = torch.addcmul(inputs[c], a[c], previous, out=values[c])
    carries = torch.empty_like(previous)
    count = carries.shape[1]
    total = total.expand(carries.shape)
    for k in range(count)[::-1] if reverse else range(count):
        carries[:, k] = state
        state.mul_(total[:, k]).add_(previous[:, k])
    by_chunk.addcmul_(products, carries.unsqueeze(2))
    if not direct:
        out[:, begin:end] = torch.view_as_real(target)
    return target


def _blocks(x: Tensor) -> list[tuple[int, int, int]]:
    # (begin, end, chunk): whole chunks in blocks that fit the cache, then what is left as one short chunk.
    length = x.shape[1]
    lanes = max(1, x.shape[0] * x.shape[2])
    steps = _CHUNK * max(1, _BLOCK // (lanes * _CHUNK))
    whole = length - length % _CHUNK
    blocks = [(begin, min(begin + steps, whole), _CHUNK) for begin in range(0, whole, steps)]
    return blocks + [(whole, length, length - whole)] * (whole < length)


def _complex(x: Tensor) -> Tensor:
    x = x.to(state_dtype(x))
    viewable = x.stride(-1) == 1 and all(s % 2 == 0 for s in x.stride()[:-1]) and x.storage_offset() % 2 == 0
    return torch.view_as_complex(x if viewable else x.clone(memory_format=torch.contiguous_format))


def _before(h: Tensor, start: Tensor | None, begin: int, end: int) -> Tensor:
    # h_{t-1} of steps begin … end − 1.
    if begin > 0:
        return _complex(h[:, begin - 1 : end - 1])
    first = torch.zeros_like(h[:, :1]) if start is None else start.unsqueeze(1)
    return _complex(torch.cat([first.to(state_dtype(h)), h[:, : end - 1].to(state_dtype(h))], dim=1))


def _padded(parameter: Tensor, begin: int, end: int) -> Tensor:
    # Steps begin … end − 1 of a [B, T, D] parameter, zeros past T (no state is left there to act on).
    piece = parameter[:, begin:end]
    missing = end - begin - piece.shape[1]
    return torch.cat([piece, torch.zeros_like(parameter[:, :1])], dim=1) if missing else piece


def _running_product(a: Tensor, reverse: bool) -> Tensor:
    # Products along dimension 2, step by step: eight multiplications of large tensors.
    products = a.clone()
    steps = products.unbind(2)[::-1] if reverse else products.unbind(2)
    for before, here in zip(steps[:-1], steps[1:], strict=True):
        here.mul_(before)
    return products


def _opened(gate: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.sigmoid(gate.to(dtype))


def _zero_gradient(parameter: Tensor, h: Tensor) -> Tensor:
    # Sums over time are collected in the state's dtype, gradients by token are written in their own.
    dtype = gradient_dtype(parameter, h) if parameter.ndim == 3 else state_dtype(h)
    return torch.zeros(parameter.shape, dtype=dtype, device=h.device)


def _add(grad: Tensor | None, begin: int, end: int, part: Tensor) -> None:
    if grad is None:
        return
    if grad.ndim == 3:
        grad[:, begin:end] += part
    else:
        grad += part.flatten(0, -2).sum(0)


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
