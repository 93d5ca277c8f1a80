"""Every form of an op against its reference in float64: outputs, and gradients to all inputs and states."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Op = Callable[..., tuple[Tensor, ...]]


def assert_agrees_with_reference(
    op: Op,
    tensors: Mapping[str, Tensor | None],
    *,
    backend: str,
    dtype: torch.dtype,
    by_dtype: tuple[str, ...],
    tolerance: Mapping[str, float],
    device: str = "cpu",
    seed: int = 0,
    **options: object,
) -> None:
    """Compare one backend of an op with the float64 reference on the same numbers.

    The inputs are rounded to what the backend reads before the oracle sees them, so only the op's own error
    counts. Every output gets a random cotangent, so the gradients of final states are checked as well.

    Args:
        op: the public function; takes the tensors by name, and ``backend``.
        tensors: its tensor arguments; floating-point ones are differentiated.
        backend: ``"torch"``, ``"native"`` or ``"triton"``.
        dtype: of the arguments named in ``by_dtype``; the others stay float32.
        tolerance: by quantity (``out0``, ``out1``, …, ``grad <argument>``, or ``default``): the largest
            allowed ``max |actual − expected| / max |expected|``; NaN never passes.
        device: where the backend runs; the oracle runs on the CPU.
        options: further arguments of the op.
    """
    generator = torch.Generator().manual_seed(seed)
    mine, oracle = {}, {}
    for name, tensor in tensors.items():
        if tensor is None or not tensor.is_floating_point():
            mine[name], oracle[name] = (None, None) if tensor is None else (tensor.to(device), tensor)
            continue
        rounded = tensor.to(dtype if name in by_dtype else torch.float32)
        mine[name] = rounded.to(device).requires_grad_()
        oracle[name] = rounded.double().requires_grad_()
    actual = op(**mine, backend=backend, **options)
    expected = op(**oracle, backend="reference", **options)
    results = {f"out{i}": pair for i, pair in enumerate(zip(actual, expected, strict=True))}
    for quantity, (have, want) in results.items():
        assert have.shape == want.shape, f"{quantity} has shape {have.shape}, expected {want.shape}"
    cotangents = [
        torch.randn(out.shape, generator=generator).to(a.dtype)
        for a, out in zip(actual, expected, strict=True)
    ]
    names = [name for name, tensor in mine.items() if tensor is not None and tensor.is_floating_point()]
    grads = [
        torch.autograd.grad(
            outputs,
            [inputs[name] for name in names],
            [c.to(o) for c, o in zip(cotangents, outputs, strict=True)],
        )
        for outputs, inputs in ((actual, mine), (expected, oracle))
    ]
    results |= {f"grad {name}": pair for name, *pair in zip(names, *grads, strict=True)}
    failures = []
    for quantity, (have, want) in results.items():
        error = relative_error(have, want)
        allowed = tolerance.get(quantity, tolerance.get("default", 0.0))
        if not error <= allowed:
            failures.append(f"{quantity}: error {error:.2e}, allowed {allowed:.2e}, {_worst(have, want)}")
    assert not failures, f"{backend} in {dtype} (seed {seed}): " + "; ".join(failures)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``max |actual − expected| / max |expected|``; NaN if either holds one, 0 for empty tensors."""
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double().cpu(), expected.detach().double()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return ((actual - expected).abs().max() / scale).item()


def _worst(actual: Tensor, expected: Tensor) -> str:
    actual, expected = actual.detach().double().cpu(), expected.detach().double()
    difference = (actual - expected).abs().nan_to_num(nan=float("inf"))
    place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    return f"worst at {place}: {actual[place].item():.6g} for {expected[place].item():.6g}"
