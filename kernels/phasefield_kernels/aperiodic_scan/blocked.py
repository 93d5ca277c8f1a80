"""aperiodic_scan in fast PyTorch.

The recurrence is nonlinear, so the forward goes step by step, five in-place ops each. The adjoint is
linear in the incoming gradients: every Jacobian is computed at once, and one op a step is left.
"""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..packing import each_sequence
from ..phases import radians_from_phase
from ..threads import one_thread_if_small

_BLOCK = 1 << 17  # elements of the workspaces of one block of time steps: they stay in cache


def forward(
    u: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values; ``(h like u, final_state)``."""
    dtype = state_dtype(u)
    c, φ = scale.to(dtype), radians_from_phase(phase, dtype)
    h = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is None:
        final = torch.zeros(rows, u.shape[2], dtype=dtype, device=u.device)
    else:
        final = initial_state.to(dtype, copy=True)
    if cu_seqlens is None:
        scan_into(h, final, u, c, φ)
    else:
        each_sequence(cu_seqlens, (h, u), (final,), lambda h, u, final: scan_into(h, final, u, c, φ) or ())
    return h, final


def scan_into(h: Tensor, state: Tensor, u: Tensor, c: Tensor, φ: Tensor) -> None:
    """Fill h, step by step, and leave the last state in ``state`` (which holds the first)."""
    work = torch.empty_like(state)
    same_dtype = h.dtype == state.dtype
    last = state
    with one_thread_if_small(state.numel()):
        for u_t, h_t in zip(u.unbind(1), h.unbind(1), strict=True):
            torch.add(last, φ, out=work)
            work.cos_().mul_(last)
            torch.addcmul(u_t, c, work, out=work)
            if same_dtype:
                last = torch.tanh(work, out=h_t)
            else:
                last = torch.tanh(work, out=state)
                h_t.copy_(last)
    if last is not state:
        state.copy_(last)


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    h: Tensor,
    scale: Tensor,
    phase: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to u, scale and initial_state.

    With p_t = φ + h_{t-1}, g_t = dL/dh_t (direct) and λ_t the whole gradient of h_t, backward in time:
      d_t = λ_t (1 − h_t²)                       du_t = d_t,     dc = Σ d_t h_{t-1} cos p_t
      λ_{t-1} = g_{t-1} + J_t λ_t,               J_t = (1 − h_t²) c (cos p_t − h_{t-1} sin p_t)
      λ_{T-1} = g_{T-1} + dL/d(final_state),     d(initial_state) = J_0 λ_0
    """
    c, φ = scale.to(grad_final.dtype), radians_from_phase(phase, grad_final.dtype)
    grad_u = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    grad_initial = grad_final.clone()
    if cu_seqlens is None:
        grad_c = _adjoint_into(grad_u, grad_initial, grad_h, h, initial_state, c, φ)
    else:
        partial = each_sequence(
            cu_seqlens,
            (grad_u, grad_h, h),
            (grad_initial, initial_state),
            lambda grad_u, grad_h, h, carry, start: (_adjoint_into(grad_u, carry, grad_h, h, start, c, φ),),
        )
        grad_c = sum((one for (one,) in partial), torch.zeros_like(c))
    return grad_u, grad_c, grad_initial


def _adjoint_into(
    grad_u: Tensor, carry: Tensor, grad_h: Tensor, h: Tensor, start: Tensor | None, c: Tensor, φ: Tensor
) -> Tensor:
    # Fills grad_u, turns `carry` from J_T λ_T into J_0 λ_0, and returns dc.
    grad_c = torch.zeros_like(c)
    start = torch.zeros_like(carry) if start is None else start.to(carry.dtype)
    steps = max(1, _BLOCK // max(1, carry.numel()))
    for end in range(h.shape[1], 0, -steps):
        begin = max(0, end - steps)
        here = h[:, begin:end].to(carry.dtype)
        if begin == 0:
            before = torch.cat([start.unsqueeze(1), here[:, :-1]], dim=1)
        else:
            before = h[:, begin - 1 : end - 1].to(carry.dtype)
        p = before + φ
        cosine = p.cos()
        slope = torch.addcmul(torch.ones_like(c), here, here, value=-1)
        jacobian = torch.addcmul(cosine, before, p.sin_(), value=-1).mul_(slope).mul_(c)
        direct = grad_h[:, begin:end].to(carry.dtype)
        λ = grad_u[:, begin:end] if grad_u.dtype == carry.dtype else torch.empty_like(here)
        later = torch.add(direct[:, -1], carry, out=λ[:, -1])
        steps_back = (tensor.unbind(1)[::-1] for tensor in (λ[:, :-1], direct[:, :-1], jacobian[:, 1:]))
        with one_thread_if_small(carry.numel()):
            for λ_t, direct_t, jacobian_next in zip(*steps_back, strict=True):
                later = torch.addcmul(direct_t, jacobian_next, later, out=λ_t)
        torch.mul(jacobian[:, 0], later, out=carry)
        d = λ.mul_(slope)
        if grad_u.dtype != carry.dtype:
            grad_u[:, begin:end] = d
        grad_c += cosine.mul_(before).mul_(d).sum((0, 1))
    return grad_c


def step_(u: Tensor, scale: Tensor, phase: Tensor, state: Tensor) -> Tensor:
    """One step; the state is overwritten, the output returned."""
    φ = radians_from_phase(phase, state.dtype)
    rotated = torch.cos(state + φ).mul_(state)
    torch.addcmul(u.to(state.dtype), scale.to(state.dtype), rotated, out=rotated)
    torch.tanh(rotated, out=state)
    return state.to(u.dtype, copy=True)
