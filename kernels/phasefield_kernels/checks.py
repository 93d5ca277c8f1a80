"""Argument checks shared by all ops: each error names the argument, what was given and what is allowed.

Shapes, dtypes and devices are always checked, before anything runs. Values (a positive log-decay,
offsets out of order) are read only where that costs no synchronisation: on CPU tensors, or on any
device under ``PHASEFIELD_DEBUG=1``.
"""

import os

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PARAMETERS = (*FLOATS, torch.int64)

_debug = os.environ.get("PHASEFIELD_DEBUG", "0") not in ("", "0", "false", "off")


def shape(argument: str, tensor: Tensor, *allowed: tuple[int | str, ...]) -> None:
    """Raise unless the tensor has one of the allowed shapes; a string stands for any size."""
    given = tensor.shape
    for pattern in allowed:
        # Lengths first: a compiled graph would be tied to every size that a pattern of another length meets.
        if len(given) == len(pattern) and (given == pattern or all(map(_fits, given, pattern))):
            return
    wanted = " or ".join("[" + ", ".join(map(str, pattern)) + "]" for pattern in allowed)
    raise ValueError(f"{argument} has shape {list(given)}; allowed is {wanted}.")


def _fits(have: int, want: int | str) -> bool:
    return isinstance(want, str) or have == want


def dtype(argument: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """Raise unless the tensor has one of the allowed dtypes."""
    if tensor.dtype not in allowed:
        given, *names = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, *allowed))
        raise ValueError(f"{argument} has dtype {given}; allowed are {', '.join(names)}.")


def device(argument: str, tensor: Tensor, main: Tensor) -> None:
    """Raise unless the tensor is on the main input's device."""
    if tensor.device != main.device:
        raise ValueError(f"{argument} is on {tensor.device}; the main input is on {main.device}.")


def parameter(argument: str, tensor: Tensor, main: Tensor, *allowed: tuple[int | str, ...]) -> None:
    """A float (or integer-phase) tensor beside the main input: its shape, dtype and device."""
    dtype(argument, tensor, PARAMETERS if argument in ("angle", "phase") else FLOATS)
    shape(argument, tensor, *allowed)
    device(argument, tensor, main)


def packing(cu_seqlens: Tensor | None, main: Tensor, argument: str) -> int | None:
    """Check packed-sequence offsets against a main input ``[1, T, …]``; the number of sequences, or None."""
    if cu_seqlens is None:
        return None
    dtype("cu_seqlens", cu_seqlens, (torch.int32, torch.int64))
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(
            f"cu_seqlens has shape {list(cu_seqlens.shape)}; allowed is [S + 1] for S sequences."
        )
    device("cu_seqlens", cu_seqlens, main)
    if main.shape[0] != 1:
        raise ValueError(f"{argument} has batch size {main.shape[0]}; with cu_seqlens it must be 1.")
    return cu_seqlens.shape[0] - 1


def values_are_readable(tensor: Tensor) -> bool:
    """Whether looking at a tensor's values is free here (a CPU tensor) or asked for (PHASEFIELD_DEBUG=1)."""
    return tensor.device.type == "cpu" or _debug


def offsets_in_order(cu_seqlens: Tensor | None, length: int) -> None:
    """Raise unless the offsets start at 0, never decrease and end at the packed length."""
    if cu_seqlens is None or not values_are_readable(cu_seqlens):
        return
    offsets = cu_seqlens.tolist()
    if offsets != sorted(offsets) or offsets[0] != 0 or offsets[-1] != length:
        raise ValueError(f"cu_seqlens is {offsets}; it must go up from 0 to T = {length}.")


def not_positive(argument: str, tensor: Tensor | None) -> None:
    """Raise if any value is above 0 (a growing state overflows; decays are given as logarithms ≤ 0)."""
    if tensor is None or tensor.numel() == 0 or not values_are_readable(tensor):
        return
    if (largest := tensor.max().item()) > 0:
        raise ValueError(f"{argument} reaches {largest:.6g}; allowed are logarithms of a decay, ≤ 0.")


def in_unit_interval(argument: str, tensor: Tensor | None) -> None:
    """Raise if any value is outside [0, 1]."""
    if tensor is None or tensor.numel() == 0 or not values_are_readable(tensor):
        return
    smallest, largest = (extreme.item() for extreme in tensor.aminmax())
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"{argument} reaches {smallest if smallest < 0 else largest:.6g}; allowed is [0, 1]."
        )


def not_longer_than_one(argument: str, tensor: Tensor, dims: int) -> None:
    """Raise if a vector (along the last ``dims`` axes) is longer than 1, beyond 1 % of rounding."""
    if tensor.numel() == 0 or not values_are_readable(tensor):
        return
    axes = tuple(range(-dims, 0))
    largest = torch.linalg.vector_norm(tensor, dim=axes, dtype=state_dtype(tensor)).max().item()
    if largest > 1.01:
        raise ValueError(f"{argument} has a vector of length {largest:.6g}; allowed are lengths up to 1.")


def state_dtype(main: Tensor) -> torch.dtype:
    """The dtype of states and accumulators: float32, or float64 beside a float64 input."""
    return torch.float64 if main.dtype == torch.float64 else torch.float32


def gradient_dtype(parameter: Tensor, main: Tensor) -> torch.dtype:
    """The dtype of a parameter's gradient: its own, or the state's for integer phases (never asked for)."""
    return parameter.dtype if parameter.is_floating_point() else state_dtype(main)


def state_in_place(state: Tensor, main: Tensor) -> None:
    """Raise unless a state can be overwritten in place by a step."""
    dtype("state", state, (state_dtype(main),))
    if not state.is_contiguous():
        raise ValueError(f"state has strides {state.stride()}; it is overwritten and must be contiguous.")


def no_grad_inputs(op: str, *tensors: Tensor | None, changes: str = "its state") -> None:
    """Raise if a mutating op would silently drop a gradient; a step of a state has a form that returns it."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        instead = f", or use {op.removesuffix('_')} for training" if changes == "its state" else ""
        raise RuntimeError(
            f"{op} changes {changes} in place and has no gradient, but an input requires grad; "
            f"call it under torch.no_grad(){instead}."
        )
