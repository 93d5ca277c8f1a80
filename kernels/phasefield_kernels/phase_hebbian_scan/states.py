"""Several memories a head: computed as further heads, and read as one."""

import torch
from torch import Tensor

from .. import checks


def check(q: Tensor, log_decay: Tensor | None, n_states: int | None, mix: Tensor | None) -> None:
    """What several memories need, for q ``[B, T, H, K, 2]``."""
    if n_states is None:
        if mix is not None:
            raise ValueError("mix is given without n_states; it weighs the memories of n_states.")
        return
    if n_states < 1:
        raise ValueError(f"n_states is {n_states}; allowed are 1 and more.")
    if mix is None:
        raise ValueError(f"mix is None; with n_states = {n_states} it is [B, T, H, {n_states}, 2].")
    batch, length, heads = q.shape[:3]
    checks.parameter("mix", mix, q, (batch, length, heads, n_states, 2))
    if log_decay is not None:
        shapes = ((heads, n_states), (batch, length, heads, n_states))
        checks.parameter("log_decay", log_decay, q, *shapes)


def as_heads(arguments: tuple[Tensor | None, ...], n_states: int, dim: int) -> tuple[Tensor | None, ...]:
    """q, k, v, log_decay and beta with the heads, at ``dim``, N times each; decays have the N already."""
    q, k, v, log_decay, beta = arguments

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(n_states, dim)

    decay = None if log_decay is None else log_decay.flatten(-2)
    return repeated(q), repeated(k), repeated(v), decay, repeated(beta)


def mixed(y: Tensor, mix: Tensor, dim: int) -> Tensor:
    """``Σ_s mix_s y_s`` over each head's N memories, in the state's precision."""
    # In real numbers: inside a compiled graph, torch's complex ones want an aligned storage.
    dtype = checks.state_dtype(y)
    real, imaginary = y.to(dtype).unflatten(dim, (-1, mix.shape[-2])).unbind(-1)
    mix_real, mix_imaginary = mix.to(dtype).unsqueeze(-2).unbind(-1)
    parts = (mix_real * real - mix_imaginary * imaginary, mix_real * imaginary + mix_imaginary * real)
    return torch.stack([part.sum(-2) for part in parts], dim=-1).to(y.dtype)
