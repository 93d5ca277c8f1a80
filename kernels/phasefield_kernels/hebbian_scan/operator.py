"""What hebbian_scan and phase_hebbian_scan share: checks of their arguments, and the registered operators."""

from types import ModuleType

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast
from ..backend import resolve
from . import blocked, native, native_delta, reference
from . import step as step_form
from .inputs import Inputs

RULES = ("hebb", "delta")
LARGEST_HEAD = 256


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The scan on checked arguments: ``(y, final_state)``."""
    delta = rule == "delta"
    name = resolve(backend, q, native.OP)
    if name == "reference":
        check_values(k, log_decay, beta, delta, cu_seqlens)
        return reference.hebbian_scan(q, k, v, log_decay, beta, delta, initial_state, cu_seqlens)
    y, final_state, _ = _scan(q, k, v, log_decay, beta, initial_state, cu_seqlens, delta, name)
    return y, final_state


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    axes: tuple[str, ...] = ("B", "T", "H"),
    pair: tuple[int, ...] = (),
) -> None:
    """Shapes, dtypes and devices of tokens; ``pair`` is the last axis of complex numbers."""
    checks.shape("q", q, (*axes, "K", *pair))
    checks.dtype("q", q, checks.FLOATS)
    lead = len(axes)
    by_head, columns = q.shape[:lead], q.shape[lead]
    if k.shape != q.shape:
        checks.shape("k", k, tuple(q.shape))
    checks.shape("v", v, (*by_head, "V", *pair))
    for name, tensor in (("k", k), ("v", v)):
        checks.dtype(name, tensor, (q.dtype,))
        checks.device(name, tensor, q)
    for name, size in (("K", columns), ("V", v.shape[lead])):
        if not 1 <= size <= LARGEST_HEAD:
            raise ValueError(f"{name} is {size}; allowed are head sizes from 1 to {LARGEST_HEAD}.")
    if log_decay is not None:
        checks.parameter("log_decay", log_decay, q, by_head[-1:], by_head)
    if beta is not None:
        checks.parameter("beta", beta, q, by_head)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; allowed are {', '.join(RULES)}.")


def check_sequences(q: Tensor, v: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Packing and the initial state."""
    sequences = checks.packing(cu_seqlens, q, "q")
    if initial_state is not None:
        rows = q.shape[0] if sequences is None else sequences
        state_shape = (rows, q.shape[2], v.shape[3], *q.shape[3:])
        checks.parameter("initial_state", initial_state, q, state_shape)


def check_values(
    k: Tensor, log_decay: Tensor | None, beta: Tensor | None, delta: bool, cu_seqlens: Tensor | None
) -> None:
    """What can only be seen in the values."""
    checks.not_positive("log_decay", log_decay)
    checks.offsets_in_order(cu_seqlens, k.shape[1])
    if delta:
        checks.in_unit_interval("beta", beta)
        checks.not_longer_than_one("k", k, 2 if k.ndim == 5 else 1)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    rule: str,
    state: Tensor,
    backend: str | None,
    pair: tuple[int, ...] = (),
) -> Tensor:
    """One step in place on unchecked arguments without a time axis; returns y."""
    check(q, k, v, log_decay, beta, rule, ("B", "H"), pair)
    checks.parameter("state", state, q, (*q.shape[:2], v.shape[2], *q.shape[2:]))
    checks.state_in_place(state, q)
    return torch.ops.phasefield.hebbian_scan_step_.default(
        q, k, v, log_decay, beta, state, rule == "delta", resolve(backend, q, native.OP)
    )


def with_time(parameter: Tensor | None) -> Tensor | None:
    """A step's parameter by head, ``[B, H]``, with a time axis; others as they are."""
    return parameter.unsqueeze(1) if parameter is not None and parameter.ndim == 2 else parameter


def _form(backend: str, delta: bool) -> ModuleType:
    if backend == "triton":
        from . import fused

        return fused
    if backend == "native":
        return native_delta if delta else native
    return blocked


@torch.library.custom_op("phasefield::hebbian_scan", mutates_args=())
def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check_values(k, log_decay, beta, delta, cu_seqlens)
    inputs = Inputs(q, k, v, log_decay, beta, initial_state, cu_seqlens, delta)
    with outside_autocast(q):
        return _form(backend, delta).forward(inputs)


@_scan.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = checks.state_dtype(q)
    rows = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if backend == "native" and delta:
        kept = native_delta.kept_numel(q.shape, v.shape)
    elif backend in ("triton", "native"):
        kept = 0
    elif cu_seqlens is None:
        kept = blocked.kept_numel(q.shape, v.shape)
    else:
        kept = torch.library.get_ctx().new_dynamic_size()
    state = (rows, q.shape[2], v.shape[3], *q.shape[3:])
    return v.new_empty(v.shape), q.new_empty(state, dtype=dtype), q.new_empty(kept, dtype=dtype)


@torch.library.custom_op("phasefield::hebbian_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    kept: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = Inputs(q, k, v, log_decay, beta, initial_state, cu_seqlens, delta)
    with outside_autocast(q):
        *grads, grad_decay, grad_beta, grad_initial = _form(backend, delta).backward(
            grad_y, grad_final, kept, inputs
        )
    # An op returns tensors only: an empty one stands for no gradient.
    by_head = (
        q.new_empty(0) if tensor is None else grad.to(tensor.dtype)
        for grad, tensor in ((grad_decay, log_decay), (grad_beta, beta))
    )
    return *grads, *by_head, grad_initial


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_final: Tensor,
    kept: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    delta: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_head = (q.new_empty(0) if t is None else t.new_empty(t.shape) for t in (log_decay, beta))
    return *(t.new_empty(t.shape) for t in (q, k, v)), *by_head, grad_final.new_empty(grad_final.shape)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    *tensors, delta, backend = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.mark_non_differentiable(output[2])
    ctx.delta, ctx.backend = delta, backend


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_y: Tensor, grad_final: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    kept, *tensors = ctx.saved_tensors
    log_decay, beta, initial_state, _ = tensors[3:]
    *grads, grad_decay, grad_beta, grad_initial = _scan_backward(
        grad_y, grad_final, kept, *tensors, ctx.delta, ctx.backend
    )
    return (
        *grads,
        None if log_decay is None else grad_decay,
        None if beta is None else grad_beta,
        None if initial_state is None else grad_initial.to(initial_state.dtype),
        None,
        None,
        None,
    )


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    state: Tensor,
    delta: bool,
    backend: str,
) -> Tensor:
    if backend == "triton":
        from . import fused_step as form
    else:
        form = native if backend == "native" else step_form
    return form.step_(q, k, v, log_decay, beta, delta, state)


# Decoding calls this once a token and layer: torch.library's bare registration costs 3 µs, custom_op 10.
_library = torch.library.Library("phasefield", "FRAGMENT")
_library.define(
    "hebbian_scan_step_(Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? beta, Tensor(a!) state, "
    "bool delta, str backend) -> Tensor"
)
_library.impl("hebbian_scan_step_", _step_, "CompositeExplicitAutograd")
torch.library.register_fake(
    "phasefield::hebbian_scan_step_", lambda q, k, v, *rest: v.new_empty(v.shape), lib=_library
)
