"""Packed sequences on the torch backends: S sequences laid end to end in one row, cut by ``cu_seqlens``."""

from collections.abc import Callable

import torch
from torch import Tensor


def each_sequence(
    cu_seqlens: Tensor,
    tensors: tuple[Tensor | None, ...],
    states: tuple[Tensor | None, ...],
    scan: Callable[..., tuple[Tensor, ...]],
) -> list[tuple[Tensor, ...]]:
    """Run ``scan(*tensors, *states)`` on every packed sequence by itself.

    Args:
        cu_seqlens: ``[S + 1]`` offsets.
        tensors: ``[1, T, …]`` each (or None); sequence s gets the slice of its own steps. A tensor
            without a time axis (fewer than 3 dimensions) goes to every sequence whole.
        states: ``[S, …]`` each (or None); sequence s gets ``[1, …]``.
        scan: returns a tuple of tensors.

    Returns:
        One tuple of results a sequence.
    """
    offsets = cu_seqlens.tolist()
    results = []
    for s, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        piece = [x if x is None or x.ndim < 3 else x[:, begin:end] for x in tensors]
        state = [x if x is None else x[s : s + 1] for x in states]
        results.append(scan(*piece, *state))
    return results


def joined(parts: list[Tensor], dim: int, empty_like: Tensor) -> Tensor:
    """The parts side by side along dim; a tensor like ``empty_like`` where there are none."""
    return torch.cat(parts, dim) if parts else torch.empty_like(empty_like)
