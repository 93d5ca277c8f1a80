"""aperiodic_scan parallel in time: Newton's method on the states at chunk boundaries.

Cut time into chunks and let ``F_k(s)`` be the state that chunk k makes of a start state s, by the exact
recurrence. The right starts solve ``s_{k+1} = F_k(s_k)``. From guesses, Newton's iteration is

    ``s'_{k+1} = F_k(s_k) + P_k (s'_k − s_k)``,     ``P_k = Π J_t`` over the chunk,     clamped to [−1, 1],

a linear scan over the few chunks, while all chunks run at once. (Newton on every time step at once, as
DEER does, is the same system before the steps inside a chunk are eliminated: it takes 7 to 8 iterations
where two do here, and reads and writes an iterate of the whole sequence in each.)

The certificate. Inside a chunk the iterate is exact, so it errs by its start's error ``e_k`` alone, grown by
``|J_t| + μ`` a step, where μ = (the cell's largest second derivative) · tolerance / 2 covers what the linear
term leaves out as long as the error stays under the tolerance. So with ``r_k = |F_k(s_k) − s_{k+1}|`` and
G_k, H_k the end and the maximum of those products over chunk k, ``e_{k+1} = G_k e_k + r_k``, and a lane
with ``H_k e_k ≤ tolerance`` in every chunk is certified. The others are computed step by step: chaotic
lanes, where nearby states separate. No lane of a trained Landauer LLM is: neither of 2 layers of 256 units
after 2,000 steps (|c| up to 2.6) nor of 4 layers of 512, at T = 1,024 to 65,536 of Shakespeare; with the
trained scales tripled it is one in 13 of the first layer's. Nothing is read back to the host to decide
this on a GPU.

On a GPU u is read four times instead of once (two iterations, the last pass, rows of lanes that fall back).
Source: Y. H. Lim et al., "Parallelizing non-linear sequential models over the sequence length", 2024 (DEER);
the elimination is multiple shooting, as in parallel-in-time integration.
"""

import torch
from torch import Tensor

from ..checks import state_dtype
from ..phases import radians_from_phase
from . import blocked

CHUNK = 128
ITERATIONS = 2
TOLERANCE = 4e-6  # 32 float32 roundings of a number under 1


def forward(
    u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Values ``(h like u, final_state)``, on the ``"torch"`` or ``"triton"`` backend."""
    if backend == "triton":
        return _forward_fused(u, scale, phase, initial_state)
    h, certified = _iterate(u, scale, phase, initial_state)
    sequence, lane = torch.nonzero(~certified, as_tuple=True)
    if len(lane):
        start = None if initial_state is None else initial_state[sequence, lane].unsqueeze(0)
        exact, _ = blocked.forward(
            u[sequence, :, lane].to(h.dtype).t().unsqueeze(0), scale[lane], phase[lane], start, None
        )
        h[sequence, :, lane] = exact[0].t()
    final = h[:, -1].clone() if u.shape[1] else blocked.forward(u, scale, phase, initial_state, None)[1]
    return h.to(u.dtype), final


def certified_lanes(u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None = None) -> Tensor:
    """Which lanes Newton's iterations solve, certified: bool ``[B, D]``; the others fall back."""
    return _iterate(u, scale, phase, initial_state)[1]


def _iterate(u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    # (h in the state's dtype, certified), in PyTorch: chunks are rows of a larger batch.
    batch, length, width = u.shape
    dtype = state_dtype(u)
    c, φ = scale.to(dtype), radians_from_phase(phase, dtype)
    chunks = max(1, -(-length // CHUNK))
    padded = torch.nn.functional.pad(u.to(dtype), (0, 0, 0, chunks * CHUNK - length))
    rows = padded.reshape(batch * chunks, CHUNK, width)
    starts = torch.zeros(batch, chunks, width, dtype=dtype, device=u.device)
    starts[:, 1:] = torch.tanh(padded[:, CHUNK - 1 : -1 : CHUNK])
    if initial_state is not None:
        starts[:, 0] = initial_state
    for remaining in range(ITERATIONS, -1, -1):
        h = torch.empty_like(rows)
        ends = starts.flatten(0, 1).clone()
        blocked.scan_into(h, ends, rows, c, φ)
        ends = ends.view_as(starts)
        jacobian = _jacobian(h, starts.flatten(0, 1), c, φ)
        if remaining:
            product = jacobian.prod(1).view_as(starts)
            local = ends - product * starts
            starts = _carry(product, local, starts[:, 0], bound=1.0)
    growth = (jacobian.abs() + _slack(c)).cumprod(1)
    highest = growth.amax(1).clamp(min=1).view_as(starts)
    residual = torch.zeros_like(ends)
    residual[:, :-1] = (ends[:, :-1] - starts[:, 1:]).abs()
    error = _carry(growth[:, -1].view_as(starts), residual, torch.zeros_like(starts[:, 0]))
    certified = (error * highest <= TOLERANCE).all(1)
    return h.view(batch, chunks * CHUNK, width)[:, :length], certified


def _jacobian(h: Tensor, start: Tensor, c: Tensor, φ: Tensor) -> Tensor:
    before = torch.cat([start.unsqueeze(1), h[:, :-1]], dim=1)
    p = before + φ
    return (1 - h * h) * c * (p.cos() - before * p.sin())


def _slack(c: Tensor) -> Tensor:
    # f'' = −2 tanh · sech² · q² + sech² · c · (−2 sin p − h cos p), |q| ≤ √2 |c|, |2 sin p + h cos p| ≤ √5,
    # and 2 tanh · sech² ≤ 0.77.
    return (1.54 * c * c + 2.24 * c.abs()) * (0.5 * TOLERANCE)


def _carry(product: Tensor, local: Tensor, start: Tensor, bound: float = float("inf")) -> Tensor:
    # The state before each chunk of s_{k+1} = product_k s_k + local_k.
    states = [start]
    for p, s in zip(product.unbind(1)[:-1], local.unbind(1)[:-1], strict=True):
        states.append(torch.addcmul(s, p, states[-1]).clamp(-bound, bound))
    return torch.stack(states, dim=1)


def _forward_fused(
    u: Tensor, scale: Tensor, phase: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    from ..device import guard
    from ..fused_carry import carry
    from .fused import run_rows

    batch, length, width = u.shape
    if length <= CHUNK:
        from .fused import forward as exact

        return exact(u, scale, phase, initial_state, None)
    chunks = -(-length // CHUNK)
    first = u.new_zeros(batch, width, dtype=torch.float32) if initial_state is None else initial_state.float()
    starts = torch.cat(
        [first.unsqueeze(1), torch.tanh(u[:, CHUNK - 1 : (chunks - 1) * CHUNK : CHUNK].float())], 1
    )
    ends, product, highest = (torch.empty_like(starts) for _ in range(3))
    h = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    with guard(u):
        for _ in range(ITERATIONS):
            run_rows(u, scale, phase, starts, ends, product=product, chunk=CHUNK)
            starts, _ = carry(product, ends - product * starts, starts[:, 0].contiguous(), bound=1.0)
        run_rows(
            u,
            scale,
            phase,
            starts,
            ends,
            h=h,
            product=product,
            growth=highest,
            chunk=CHUNK,
            tolerance=TOLERANCE,
        )
        residual = torch.zeros_like(ends)
        residual[:, :-1] = (ends[:, :-1] - starts[:, 1:]).abs()
        error, _ = carry(product, residual, None)
        pending = (~(error * highest <= TOLERANCE).all(1)).to(torch.int8)
        final = ends[:, -1].contiguous()
        start = None if initial_state is None else initial_state.float().contiguous()
        run_rows(u, scale, phase, start, final, h=h, pending=pending)
    return h, final
