"""hebbian_scan: a matrix memory that is written by outer products and read by queries."""

from torch import Tensor

from .. import checks
from . import operator


def hebbian_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    rule: str = "hebb",
    initial_state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A decaying matrix memory: each token writes the outer product of a value and a key, then reads.

        ``S_t = γ_t S_{t-1} + β_t v_t k_tᵀ``,     ``y_t = S_t q_t``,     ``γ_t = exp(log_decay_t)``

    with rule ``"hebb"``; ``S_{-1}`` is the initial state, or 0. Rule ``"delta"`` writes what is missing,
    ``β_t (v_t − γ_t S_{t-1} k_t) k_tᵀ``: a key that comes again is overwritten, not added to.

    Computed chunk by chunk with matrix products (natively, by Hebb's rule, step by step); states are float32.
    Memory: for its backward the torch form keeps the states at the starts of groups of chunks, the native
    delta rule one state in 256; the others keep nothing. What is not kept is computed again.

    Args:
        q, k: ``[B, T, H, K]``; float32, bfloat16, float16 (float64 on the torch backends), both alike. Any
            strides. For the delta rule keys have length 1 (or less).
        v: ``[B, T, H, V]`` in q's dtype; K and V are 1 to 256.
        log_decay: ``≤ 0``, ``[B, T, H]``, ``[H]``, or None for no decay.
        beta: write strength ``[B, T, H]``, None for 1; in [0, 1] for the delta rule.
        rule: ``"hebb"`` or ``"delta"``.
        initial_state: ``[B, H, V, K]`` (``[S, H, V, K]`` if packed), zeros if None.
        cu_seqlens: ``[S + 1]`` int32 or int64 offsets of S sequences packed into B = 1.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        ``(y, final_state)``: y ``[B, T, H, V]`` in q's dtype, final_state like initial_state in float32
        (float64 for float64). An empty sequence's final state is its initial state.

    Raises:
        ValueError: a shape, dtype, device, rule or backend that does not fit; a positive log_decay; for the
            delta rule a beta outside [0, 1] or a key longer than 1.

    Source: I. Schlag, K. Irie and J. Schmidhuber, "Linear transformers are secretly fast weight programmers",
    2021; the chunked delta rule is that of S. Yang et al., "Parallelizing linear transformers with the delta
    rule over sequence length", 2024.
    """
    operator.check(q, k, v, log_decay, beta, rule)
    operator.check_sequences(q, v, initial_state, cu_seqlens)
    return operator.run(q, k, v, log_decay, beta, rule, initial_state, cu_seqlens, backend)


def hebbian_scan_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    state: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of :func:`hebbian_scan`, differentiable; returns ``(y, new_state)``.

    q and k are ``[B, H, K]``, v and y ``[B, H, V]``, log_decay ``[B, H]`` or ``[H]``, beta ``[B, H]``; the
    rest as in the scan.
    """
    checks.shape("q", q, ("B", "H", "K"))
    tokens = (tensor.unsqueeze(1) for tensor in (q, k, v))
    by_head = (operator.with_time(parameter) for parameter in (log_decay, beta))
    y, new_state = hebbian_scan(*tokens, *by_head, rule, state, backend=backend)
    return y.squeeze(1), new_state


def hebbian_scan_step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    state: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """One step for decoding: overwrites ``state`` and returns y; arguments as in :func:`hebbian_scan_step`.

    Raises:
        RuntimeError: under grad mode, if an input requires grad.
        ValueError: a shape, dtype or device that does not fit; state has to be contiguous and float32
            (float64 for float64). Values are not looked at.
    """
    checks.no_grad_inputs("hebbian_scan_step_", q, k, v, log_decay, beta, state)
    return operator.step(q, k, v, log_decay, beta, rule, state, backend)
