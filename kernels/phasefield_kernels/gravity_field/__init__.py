"""gravity_field: softened gravity between the tokens of a sequence, attention's shape without softmax."""

from types import ModuleType

import torch
from torch import Tensor

from .. import checks
from ..autocast import outside_autocast
from ..backend import resolve
from . import blocked, native, reference

WIDEST = 256
"""The widest points of the fused kernels; wider ones go through the torch form's matrix products there."""


def gravity_field(
    x: Tensor,
    mass: Tensor | None = None,
    strength: float = 1.0,
    softening: float = 0.1,
    causal: bool = True,
    source: Tensor | None = None,
    window: int | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """The force of Plummer-softened gravity on every point: with ``d_ij = s_j − x_i``,

    ``F_i = g Σ_j m_j d_ij (|d_ij|² + ε²)^{-3/2}``

    over ``j < i`` (causal: strictly the past), or over ``j ≠ i``. Sources s are the points x themselves, or
    given ones, all of which lie in the past of all points: the S tokens before them, so that
    ``F(whole)[S:] = F(whole[S:]) + F(whole[S:], source=whole[:S])``.

    No ``T × T`` tensor is formed in memory, forward or backward, and no bit depends on the run.

    **Precision.** ``|d|²`` comes from a matrix product, ``|x|² + |s|² − 2 x·s``, never below 0. Near pairs,
    ``ρ = |d|² + ε² < (|x|² + |s|²)/64``, would cancel in it: their differences are formed one by one, for
    ``|d|²`` and for the force. So the error of a sum is at most ``C u g Σ_j |m_j| / ρ_ij``, no term of which
    exceeds ``1/ε²`` (the largest force that a unit mass exerts at all is ``0.385/ε²``), with u = 2^-24 and

    - ``C = 96 κ + 12 (2 + √T)``: ``3/2 · 64 κ u`` of a weight; and roundings of ``w |s| ≤ 12/ρ``, two of a
      term and √T of the sum;
    - ``κ = 2 + √D/4``, the roundings of a sum of D products and of the norms.

    float32 is multiplied in full, not in tf32. 16-bit inputs are multiplied exactly before they are added;
    weights are rounded, consistently, so that nothing cancels against it: another 2^-9 of a term in bfloat16,
    2^-11 in float16.

    Near pairs are slow, and repeated tokens with equal vectors are near pairs.

    **Gradients** are given to x, mass and source. strength and softening are Python numbers and have none:
    the field is proportional to the strength (multiply the result by a tensor), and a softening that is
    learned would want a sum of its own.

    Args:
        x: ``[B, T, D]``; float32, bfloat16, float16 (float64 on the torch backends). Any strides.
        mass: of the sources, ``[B, S]`` (``[B, T]`` without given ones); ones if None. Read in float32.
        strength: g.
        softening: ε > 0; at least 0.05 for bfloat16 and float16, whose rounding of x is as large.
        causal: the past alone. Given sources are always in the past, whatever this says.
        source: ``[B, S, D]`` in x's dtype.
        window: how many tokens away a source may be, ``|i − j| ≤ window``; None for all. Given sources are
            the S tokens just before x: their j is ``j − S``.
        backend: see :mod:`phasefield_kernels.backend`. For D over 256 the torch form runs on a GPU.

    Returns:
        ``[B, T, D]`` in x's dtype.

    Raises:
        ValueError: an argument that does not fit, by name.
    """
    _check(x, mass, source)
    _check_numbers(x, strength, softening, window)
    name = resolve(backend, x, native.OP)
    if name == "reference":
        return reference.gravity_field(x, mass, strength, softening, causal, source, window)
    name = "torch" if name == "triton" and x.shape[2] > WIDEST else name
    return _field(x, mass, source, float(strength), float(softening), causal, window, name)


def _check(x: Tensor, mass: Tensor | None, source: Tensor | None) -> None:
    checks.dtype("x", x, checks.FLOATS)
    checks.shape("x", x, ("B", "T", "D"))
    batch, length, width = x.shape
    if source is not None:
        checks.dtype("source", source, (x.dtype,))
        checks.shape("source", source, (batch, "S", width))
        checks.device("source", source, x)
        length = source.shape[1]
    if mass is not None:
        checks.parameter("mass", mass, x, (batch, length))


def _check_numbers(x: Tensor, strength: float, softening: float, window: int | None) -> None:
    for argument, value in (("strength", strength), ("softening", softening)):
        if isinstance(value, Tensor):
            raise ValueError(f"{argument} is a tensor; allowed are Python numbers, which have no gradient.")
    two_bytes = x.dtype in (torch.bfloat16, torch.float16)
    if not softening > 0 or (two_bytes and softening < 0.05):
        given = str(x.dtype).removeprefix("torch.")
        wanted = f"at least 0.05 for {given}" if two_bytes else "positive numbers"
        raise ValueError(f"softening is {softening}; allowed are {wanted}.")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; allowed are None and whole numbers from 1.")


def _form(backend: str) -> ModuleType:
    if backend == "triton":
        from . import fused

        return fused
    return native if backend == "native" else blocked


@torch.library.custom_op("phasefield::gravity_field", mutates_args=())
def _field(
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    backend: str,
) -> Tensor:
    with outside_autocast(x):
        return _form(backend).forward(x, mass, source, strength, softening, causal, window)


@_field.register_fake
def _(
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    backend: str,
) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("phasefield::gravity_field_backward", mutates_args=())
def _field_backward(
    grad: Tensor,
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with outside_autocast(x):
        grads = _form(backend).backward(
            grad, x, mass, source, strength, softening, causal, window, tuple(needs)
        )
    # An op returns tensors only: an empty one stands for no gradient.
    return tuple(x.new_empty(0) if g is None else g for g in grads)


@_field_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    mass: Tensor | None,
    source: Tensor | None,
    strength: float,
    softening: float,
    causal: bool,
    window: int | None,
    needs: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(
        tensor.new_empty(tensor.shape) if needed else x.new_empty(0)
        for tensor, needed in zip((x, mass, source), needs, strict=True)
    )


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, mass, source, *ctx.options = inputs
    ctx.save_for_backward(x, mass, source)


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    *options, backend = ctx.options
    grads = _field_backward(grad, *ctx.saved_tensors, *options, list(needs), backend)
    return *(g if needed else None for g, needed in zip(grads, needs, strict=True)), *[None] * 5


_field.register_autograd(_differentiate, setup_context=_setup_context)
