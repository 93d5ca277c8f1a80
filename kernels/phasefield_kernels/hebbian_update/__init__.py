"""hebbian_update_: a batch of activity changes a weight matrix in place, by Hebb's rule or Oja's."""

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast, under_autocast
from ..backend import resolve
from . import blocked, reference

RULES = ("hebb", "oja", "oja_subspace")
NORMS = ("frobenius", "row")


def hebbian_update_(
    weight: Tensor,
    post: Tensor,
    pre: Tensor,
    rate: float,
    decay: float,
    rule: str = "hebb",
    max_norm: float | None = None,
    stochastic_rounding: bool = False,
    seed: int | None = None,
    *,
    norm: str = "frobenius",
    backend: str | None = None,
) -> Tensor:
    """Change a weight in place: ``W ← λ W + η ΔW``, with means ⟨·⟩ over the M rows of activity.

    ==================  =====================================  ===========================================
    ``hebb``            ``ΔW = ⟨y xᵀ⟩``                        Hebb 1949
    ``oja``             ``ΔW_n = ⟨y_n (x − y_n W_n)⟩``         Oja 1982, each row by itself
    ``oja_subspace``    ``ΔW = ⟨y xᵀ⟩ − ⟨y yᵀ⟩ W``             Oja 1989, rows span the principal subspace
    ==================  =====================================  ===========================================

    y is a row of ``post`` and x the same row of ``pre``. Without rows (M = 0) the means are 0 and the decay
    remains. Sums are formed in float32 (float64 for a float64 weight) and the weight is rounded once, at the
    end. There is no gradient.

    A norm bound is applied after the update and before rounding: what is longer than ``max_norm`` is scaled
    back to it, the whole matrix by its Frobenius norm or each row ``W_n`` by its own.

    bfloat16 has 8 bits: a change smaller than 2^-9 of a weight is lost by rounding to nearest, however often
    it is repeated. Stochastic rounding goes up or down with the probability that makes the mean right. Its
    random bits are Philox 4×32-10's (Salmon et al. 2011) for the seed and the element's index, the same on
    every backend and device; on one backend, equal inputs and seeds give equal weights, bit for bit. Take a
    new seed for every update.

    Under autocast post and pre are read in autocast's dtype.

    Args:
        weight: ``[N, K]``, changed in place; float32, bfloat16 or float16 (float64 on the torch backends).
            Any strides without overlap.
        post: ``[M, N]``; float32, bfloat16, float16, or float64 beside a float64 weight. Any strides.
        pre: ``[M, K]`` in post's dtype.
        rate: η, a Python number.
        decay: λ, a Python number that the old weight is multiplied by; 1 keeps it.
        rule: ``"hebb"``, ``"oja"`` or ``"oja_subspace"``.
        max_norm: a positive bound, or None.
        stochastic_rounding: of a bfloat16 or float16 weight.
        seed: ``0 ≤ seed < 2^63`` of the stochastic rounding, which wants one.
        norm: what ``max_norm`` bounds: ``"frobenius"`` (the whole matrix) or ``"row"``.
        backend: see :mod:`phasefield_kernels.backend`.

    Returns:
        The weight.

    Raises:
        ValueError: an argument that does not fit, by name.
        RuntimeError: in grad mode, an input requires grad; a gradient would be dropped silently.
    """
    checks.no_grad_inputs("hebbian_update_", weight, post, pre, changes="the weight")
    post, pre = under_autocast(post), under_autocast(pre)
    _check(weight, post, pre)
    _check_options(weight, rule, max_norm, norm, stochastic_rounding, seed)
    name = resolve(backend, weight)
    max_norm = None if max_norm is None else float(max_norm)
    _update_(weight, post, pre, float(rate), float(decay), rule, max_norm, norm, seed, name)
    return weight


def _check(weight: Tensor, post: Tensor, pre: Tensor) -> None:
    checks.shape("weight", weight, ("N", "K"))
    checks.dtype("weight", weight, checks.FLOATS)
    if any(stride == 0 and size > 1 for stride, size in zip(weight.stride(), weight.shape, strict=True)):
        raise ValueError(
            f"weight has strides {weight.stride()}; it is overwritten, so its elements may not share memory."
        )
    units, inputs = weight.shape
    checks.shape("post", post, ("M", units))
    checks.dtype("post", post, checks.FLOATS if weight.dtype == torch.float64 else checks.FLOATS[:3])
    checks.device("post", post, weight)
    checks.shape("pre", pre, (post.shape[0], inputs))
    checks.dtype("pre", pre, (post.dtype,))
    checks.device("pre", pre, weight)


def _check_options(
    weight: Tensor, rule: str, max_norm: float | None, norm: str, stochastic_rounding: bool, seed: int | None
) -> None:
    for argument, given, allowed in (("rule", rule, RULES), ("norm", norm, NORMS)):
        if given not in allowed:
            raise ValueError(f"{argument} is {given!r}; allowed are {', '.join(allowed)}.")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; allowed are positive numbers and None.")
    if not stochastic_rounding:
        if seed is not None:
            raise ValueError(f"seed is {seed}, but nothing is random without stochastic_rounding=True.")
        return
    if weight.dtype not in (torch.bfloat16, torch.float16):
        given = str(weight.dtype).removeprefix("torch.")
        raise ValueError(f"stochastic_rounding is for bfloat16 and float16; weight has dtype {given}.")
    if seed is None or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; stochastic_rounding wants one from 0 to 2^63 − 1.")


@torch.library.custom_op("phasefield::hebbian_update_", mutates_args=("weight",))
def _update_(
    weight: Tensor,
    post: Tensor,
    pre: Tensor,
    rate: float,
    decay: float,
    rule: str,
    max_norm: float | None,
    norm: str,
    seed: int | None,
    backend: str,
) -> None:
    if weight.numel() == 0:
        return
    if backend == "triton":
        from . import fused as form
    else:
        form = reference if backend == "reference" else blocked
    with outside_autocast(weight):
        form.update_(weight, post, pre, rate, decay, rule, max_norm, norm, seed)


@_update_.register_fake
def _(
    weight: Tensor,
    post: Tensor,
    pre: Tensor,
    rate: float,
    decay: float,
    rule: str,
    max_norm: float | None,
    norm: str,
    seed: int | None,
    backend: str,
) -> None:
    return None
