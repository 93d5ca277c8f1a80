"""hebbian_scan in fast PyTorch: chunks of matrix products, real or complex, with a hand-written backward.

In a chunk with rows q_i, k_i, v_i of Q, K, V, with S at its start and u_j the value that step j writes,

    Y = e^s Q Sᵀ + (Q Kᴴ ⊙ G) U,     S_end = e^{s_end} S + Uᵀ (e^{s_end − s} conj(K))

(s, G: see :class:`.chunks.Decay`). Hebb: ``U = β V``. Delta: step i also reads what step j < i wrote, so

    (1 + A) U = β (V − e^s K Sᵀ),     A = β (K Kᴴ ⊙ G), strictly lower: U = U₀ − W Sᵀ

where U₀ and W, solved from βV and βe^s K, do not wait for S (the WY form). What waits, one chunk after the
other, is S alone; a group of chunks (:mod:`.chunks`) shares all other products.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence
from .chunks import Decay, Group, inner, scale_, scaled, spans
from .inputs import Inputs


class _Parts(NamedTuple):
    """A group's tokens as ``[n, C, …]``, and what its chunks do with a state.

    Attributes:
        conj_k: conj(K).
        U: what is written: U₀ for the delta rule.
        W, A: of the delta rule.
        overlaps: K Kᴴ ⊙ G of the delta rule, strictly lower.
    """

    group: Group
    decay: Decay
    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor | None
    conj_k: Tensor
    U: Tensor
    W: Tensor | None
    A: Tensor | None
    overlaps: Tensor | None


def kept_numel(q_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> int:
    """Floats of the states at the groups' starts."""
    batch, _, heads, columns = q_shape[:4]
    state = batch * heads * v_shape[3] * columns * (q_shape[4] if len(q_shape) == 5 else 1)
    return len(spans(q_shape, v_shape[3])) * state


def forward(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Values; kept are the states at the groups' starts, flat."""
    q, k, v, log_decay, beta, initial_state, cu_seqlens, delta = inputs
    final = torch.zeros(inputs.state_shape, dtype=state_dtype(q), device=q.device)
    if initial_state is not None:
        final.copy_(initial_state)
    y = torch.empty(v.shape, dtype=q.dtype, device=q.device)

    def one(y: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        *tokens, state = rest
        return (_forward(y, *tokens, delta, state),)

    tensors = (y, q, k, v, log_decay, beta)
    if cu_seqlens is None:
        starts = [one(*tensors, final)]
    else:
        starts = each_sequence(cu_seqlens, tensors, (final,), one)
    parts = [part for (part,) in starts]
    return y, final, torch.cat(parts) if len(parts) != 1 else parts[0]


def backward(
    grad_y: Tensor, grad_final: Tensor, starts: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients.

    Chunk by chunk backward in time, with dS_end from the chunk after (the last has dL/d(final_state)),
    complex gradients dL/d(re) + i dL/d(im), and dP = (dY Uᴴ) ⊙ G, lower:
      dU = (Q Kᴴ ⊙ G)ᴴ dY + e^{s_end − s} K dS_endᵀ
      dX = (1 + A)⁻ᴴ dU for the delta rule, dX = dU for Hebb's;      dV = β dX
      dS = e^{s_end} dS_end + (e^s dY)ᵀ conj(Q) − dUᵀ conj(W)
      dQ = e^s dY conj(S) + dP K
      dK = dPᴴ Q + e^{s_end − s} U conj(dS_end) − (dV Uᴴ ⊙ G)ᴴ K + β κ,     the last two for delta alone,
        with κ = −e^s dX conj(S) − (dX Uᴴ ⊙ G) K, both G strictly lower: what step i reads with k_i
      dβ = Re(conj(v) dX + conj(k) κ)
    log γ needs no products of its own: e^{s_i} multiplies q_i and the reading k_i, e^{−s_j} the writing k_j,
    and e^{s_end} all of S_end, so with dk of the writing alone, without βκ,
      ds_i = Re(conj(q_i) dq_i + β_i conj(k_i) κ_i − conj(k_i) dk_i),   ds_end also gets Re⟨dS_end, S_end⟩
    and d(log γ_t) = Σ_{i ≥ t} ds_i, within the chunk.
    """
    q, k, v, log_decay, beta, _, cu_seqlens, delta = inputs
    grad_q, grad_k, grad_v = (torch.empty_like(t) for t in (q, k, v))
    dtype = state_dtype(q)
    by_head = dict(dtype=dtype, device=q.device)
    grad_decay = None if log_decay is None else torch.empty(q.shape[:3], **by_head)
    grad_beta = None if beta is None else torch.empty(q.shape[:3], **by_head)
    grad_initial = grad_final.to(dtype, copy=True).contiguous()
    taken = 0

    def one(*rest: Tensor | None) -> tuple[Tensor, ...]:
        nonlocal taken
        *tensors, carry = rest
        size = kept_numel(tensors[6].shape, tensors[8].shape)
        _backward(*tensors, delta, starts[taken : taken + size], carry)
        taken += size
        return ()

    # A decay by head goes to every sequence whole.
    tensors = (grad_q, grad_k, grad_v, grad_decay, grad_beta, grad_y, q, k, v, log_decay, beta)
    if cu_seqlens is None:
        one(*tensors, grad_initial)
    else:
        each_sequence(cu_seqlens, tensors, (grad_initial,), one)
    if log_decay is not None and log_decay.ndim == 1:
        grad_decay = grad_decay.sum((0, 1))
    return grad_q, grad_k, grad_v, grad_decay, grad_beta, grad_initial


def _numbers(state: Tensor, like: Tensor) -> Tensor:
    # A state [B, H, V, K(, 2)] as [B · H, V, K], a view.
    flat = state.flatten(0, 1)
    return torch.view_as_complex(flat) if like.ndim == 5 else flat


def _conj(x: Tensor) -> Tensor:
    return x.conj_physical() if x.is_complex() else x


def _parts(
    span: tuple[int, int, int],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
) -> _Parts:
    group = Group(q, span)
    decay = Decay(group, log_decay, q.device)
    q, k, v = (group.take(t) for t in (q, k, v))
    beta = None if beta is None else group.take_by_head(beta)
    conj_k = _conj(k)
    if not delta:
        return _Parts(group, decay, q, k, v, beta, conj_k, scaled(v, beta), None, None, None)
    overlaps = scale_(torch.bmm(k, conj_k.mT), decay.between.tril(-1))
    A = scaled(overlaps, beta)
    right = torch.cat([v, scaled(k, decay.since_start)], dim=2)
    solved = torch.linalg.solve_triangular(A, scale_(right, beta), upper=False, unitriangular=True)
    U, W = solved.split([v.shape[2], k.shape[2]], dim=2)
    return _Parts(group, decay, q, k, v, beta, conj_k, U, W, A, overlaps)


def _states(parts: _Parts, start: Tensor) -> tuple[Tensor, Tensor]:
    """``(S, U)``: states at the chunks' starts and the last one's end, ``[B · H, G + 1, V, K]``; and U."""
    group, decay = parts.group, parts.decay
    U = parts.U
    S = start.new_empty(start.shape[0], group.chunks + 1, *start.shape[1:])
    S[:, 0] = start
    late_k = scaled(parts.conj_k, decay.until_end)
    whole = None if decay.whole is None else decay.whole.unbind(1)
    if parts.W is None:
        # What a chunk writes itself, all at once; then the carries.
        written = torch.bmm(U.mT, late_k).view(start.shape[0], group.chunks, *start.shape[1:]).unbind(1)
        for g, (before, after) in enumerate(zip(S.unbind(1), S.unbind(1)[1:], strict=False)):
            if whole is None:
                torch.add(before, written[g], out=after)
            else:
                torch.addcmul(written[g], before, whole[g], out=after)
        return S, U
    U = U.contiguous()
    by_chunk = (
        t.view(start.shape[0], group.chunks, group.steps, t.shape[2]).unbind(1) for t in (U, parts.W, late_k)
    )
    steps = zip(S.unbind(1), S.unbind(1)[1:], *by_chunk, strict=False)
    for g, (before, after, U_g, W_g, k_g) in enumerate(steps):
        # Products apart from sums: into a strided tensor torch multiplies matrix by matrix.
        U_g.sub_(torch.bmm(W_g, before.mT))
        torch.add(scaled(before, None if whole is None else whole[g]), torch.bmm(U_g.mT, k_g), out=after)
    return S, U


def _forward(
    y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    state: Tensor,
) -> Tensor:
    # Fills y, moves the state on, and returns the groups' start states.
    groups = spans(q.shape, v.shape[3])
    start = _numbers(state, q)
    starts = start.new_empty(len(groups), *start.shape)
    for span, kept in zip(groups, starts.unbind(0), strict=True):
        kept.copy_(start)
        parts = _parts(span, q, k, v, log_decay, beta, delta)
        S, U = _states(parts, kept)
        P = scale_(torch.bmm(parts.q, parts.conj_k.mT), parts.decay.between)
        out = torch.bmm(scaled(parts.q, parts.decay.since_start), S[:, :-1].flatten(0, 1).mT)
        parts.group.put(y, out.baddbmm_(P, U))
        start.copy_(S[:, -1])
    return (torch.view_as_real(starts) if q.ndim == 5 else starts).flatten()


def _backward(
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    grad_decay: Tensor | None,
    grad_beta: Tensor | None,
    grad_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    delta: bool,
    starts: Tensor,
    carry: Tensor,
) -> None:
    # Fills the gradients and turns `carry`, dL/d(final_state), into d(initial_state).
    groups = spans(q.shape, v.shape[3])
    dS = _numbers(carry, q)
    starts = starts.view(len(groups), *carry.shape).flatten(1, 2)
    starts = torch.view_as_complex(starts) if q.ndim == 5 else starts
    for span, start in zip(groups[::-1], starts.unbind(0)[::-1], strict=True):
        parts = _parts(span, q, k, v, log_decay, beta, delta)
        group, decay = parts.group, parts.decay
        dY = group.take(grad_y)
        S, U = _states(parts, start)
        P = scale_(torch.bmm(parts.q, parts.conj_k.mT), decay.between)
        dU = torch.bmm(_conj(P).mT, dY)
        late_dY = scaled(dY, decay.since_start)
        after = _carry_back(parts, dU, late_dY, dS)
        S_ends, S = S[:, 1:].flatten(0, 1), S[:, :-1].flatten(0, 1)
        conj_S, conj_after = _conj(S), _conj(after)
        conj_U = _conj(U)
        dX = dU
        if delta:
            upper = _conj(parts.A).mT
            dX = torch.linalg.solve_triangular(upper, dU, upper=True, unitriangular=True)
        dV = scaled(dX, parts.beta)
        dP = scale_(torch.bmm(dY, conj_U.mT), decay.between)
        dQ = torch.bmm(late_dY, conj_S).baddbmm_(dP, parts.k)
        dK = torch.bmm(scaled(U, decay.until_end), conj_after)
        dK.baddbmm_(_conj(dP).mT, parts.q)
        reading = None
        if delta:
            dA = scale_(torch.bmm(dX, conj_U.mT), decay.between.tril(-1))
            kappa = torch.bmm(scaled(dX, decay.since_start), conj_S).baddbmm_(dA, parts.k).neg_()
            dK.baddbmm_(_conj(scaled(dA, parts.beta)).mT, parts.k, alpha=-1)
            reading = inner(parts.k, kappa)
        if grad_beta is not None:
            d_beta = inner(parts.v, dX)
            group.put_by_head(grad_beta, d_beta if reading is None else d_beta + reading)
        if grad_decay is not None:
            ds = inner(parts.q, dQ) - inner(parts.k, dK)
            if reading is not None:
                ds += reading if parts.beta is None else reading * parts.beta.squeeze(2)
            ds[:, -1] += inner(after.flatten(1), S_ends.flatten(1))
            group.put_by_head(grad_decay, ds.flip(1).cumsum(1).flip(1))
        if delta:
            dK += scaled(kappa, parts.beta)
        for grad, value in ((grad_q, dQ), (grad_k, dK), (grad_v, dV)):
            group.put(grad, value)


def _carry_back(parts: _Parts, dU: Tensor, late_dY: Tensor, dS: Tensor) -> Tensor:
    """dS_end of each chunk, ``[n, V, K]``; completes dU and moves dS to the group's start."""
    group, decay = parts.group, parts.decay
    ends = dS.new_empty(dS.shape[0], group.chunks, *dS.shape[1:])
    read = torch.bmm(late_dY.mT, _conj(parts.q)).view(ends.shape)
    late_k = scaled(parts.k, decay.until_end)
    whole = None if decay.whole is None else decay.whole.unbind(1)
    if parts.W is not None:
        shape = (dS.shape[0], group.chunks, group.steps, -1)
        dU_chunks, k_chunks, W_chunks = (t.view(shape).unbind(1) for t in (dU, late_k, _conj(parts.W)))
    for g in reversed(range(group.chunks)):
        ends[:, g] = dS
        if parts.W is not None:
            dU_chunks[g].add_(torch.bmm(k_chunks[g], dS.mT))
            read[:, g].sub_(torch.bmm(dU_chunks[g].mT, W_chunks[g]))
        scale_(dS, None if whole is None else whole[g]).add_(read[:, g])
    ends = ends.flatten(0, 1)
    if parts.W is None:
        dU.baddbmm_(late_k, ends.mT)
    return ends
