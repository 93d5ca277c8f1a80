"""phase_hebbian_scan: the complex matrix memory, keys conjugated on write; several memories read as one."""

from torch import Tensor

from .. import checks
from ..hebbian_scan import operator
from . import states

_PAIR = (2,)


def phase_hebbian_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    rule: str = "hebb",
    initial_state: Tensor | None = None,
    *,
    n_states: int | None = None,
    mix: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`~phasefield_kernels.hebbian_scan` on complex numbers: a phase-coded associative memory.

        ``S_t = γ_t S_{t-1} + β_t v_t k_tᴴ``,     ``y_t = S_t q_t``

    with rule ``"hebb"``; rule ``"delta"`` writes ``β_t (v_t − γ_t S_{t-1} k_t) k_tᴴ``. Keys are conjugated
    when they write, so a query that equals a key of length 1 reads its value, and one of another phase reads
    the value turned by the difference.

    With ``n_states`` there are that many memories a head, of the same tokens but with decays of their own,
    read as ``y_t = Σ_s mix_ts S_t^{(s)} q_t``. They are computed as further heads, and q, k and v copied for
    each.

    Args:
        q, k: ``[B, T, H, K, 2]``, real and imaginary part last; float32, bfloat16, float16 (float64 on the
            torch backends), both alike. Any strides. For the delta rule keys have length 1 (or less).
        v: ``[B, T, H, V, 2]`` in q's dtype; K and V are 1 to 256.
        log_decay: ``≤ 0``, ``[B, T, H]``, ``[H]``, or None for no decay; with n_states ``[B, T, H, N]`` or
            ``[H, N]``.
        beta: write strength ``[B, T, H]``, None for 1; in [0, 1] for the delta rule.
        rule: ``"hebb"`` or ``"delta"``.
        initial_state: ``[B, H, V, K, 2]`` (``[S, …]`` if packed; ``[B, H, N, V, K, 2]`` with n_states), zeros
            if None.
        n_states: N, the number of memories a head; None for one, without an axis of its own.
        mix: ``[B, T, H, N, 2]``, the complex weights of the N memories; given with n_states alone.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(y, final_state)``: y ``[B, T, H, V, 2]`` in q's dtype, final_state like initial_state in float32
        (float64 for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device, rule or backend that does not fit; a positive log_decay; for the
            delta rule a beta outside [0, 1] or a key longer than 1; n_states without mix, or mix without.

    Source: the phase-associative memory of arXiv:2604.05030; chunked as in
    :func:`~phasefield_kernels.hebbian_scan`.
    """
    arguments = (q, k, v, log_decay, beta)
    if n_states is None and mix is None:
        operator.check(*arguments, rule, pair=_PAIR)
        operator.check_sequences(q, v, initial_state, cu_seqlens)
        return operator.run(*arguments, rule, initial_state, cu_seqlens, backend)
    operator.check(q, k, v, None, beta, rule, pair=_PAIR)
    operator.check_sequences(q, v, None, cu_seqlens)
    states.check(q.shape[:3], q, log_decay, n_states, mix)
    rows = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is not None:
        state_shape = (rows, q.shape[2], n_states, v.shape[3], *q.shape[3:])
        checks.parameter("initial_state", initial_state, q, state_shape)
        initial_state = initial_state.flatten(1, 2)
    heads = states.as_heads(arguments, n_states, dim=2)
    y, final_state = operator.run(*heads, rule, initial_state, cu_seqlens, backend)
    return states.mixed(y, mix, dim=2), final_state.unflatten(1, (q.shape[2], n_states))


def phase_hebbian_scan_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    state: Tensor,
    *,
    n_states: int | None = None,
    mix: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`phase_hebbian_scan`, differentiable; returns ``(y, new_state)``.

    q and k are ``[B, H, K, 2]``, v and y ``[B, H, V, 2]``, log_decay ``[B, H]`` or ``[H]`` (with n_states
    ``[B, H, N]`` or ``[H, N]``), beta ``[B, H]``, mix ``[B, H, N, 2]``; the rest as in the scan.
    """
    checks.shape("q", q, ("B", "H", "K", 2))
    tokens = (tensor.unsqueeze(1) for tensor in (q, k, v))
    constant = 1 if n_states is None else 2
    if log_decay is not None and log_decay.ndim != constant:
        log_decay = log_decay.unsqueeze(1)
    y, new_state = phase_hebbian_scan(
        *tokens,
        log_decay,
        operator.with_time(beta),
        rule,
        state,
        n_states=n_states,
        mix=None if mix is None else mix.unsqueeze(1),
        backend=backend,
    )
    return y.squeeze(1), new_state


def phase_hebbian_scan_step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    state: Tensor,
    *,
    n_states: int | None = None,
    mix: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns y; arguments as in the step above.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit; state has to be contiguous and float32
            (float64 for float64). Values are not looked at.
    """
    checks.no_grad_inputs("phase_hebbian_scan_step_", q, k, v, log_decay, beta, state, mix)
    if n_states is None and mix is None:
        return operator.step(q, k, v, log_decay, beta, rule, state, backend, _PAIR)
    operator.check(q, k, v, None, beta, rule, ("B", "H"), _PAIR)
    states.check(q.shape[:2], q, log_decay, n_states, mix)
    checks.parameter("state", state, q, (*q.shape[:2], n_states, v.shape[2], *q.shape[2:]))
    checks.state_in_place(state, q)
    heads = states.as_heads((q, k, v, log_decay, beta), n_states, dim=1)
    y = operator.step(*heads, rule, state.flatten(1, 2), backend, _PAIR)
    return states.mixed(y, mix, dim=1)
