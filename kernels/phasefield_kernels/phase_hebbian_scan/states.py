"""Several memories a head: computed as further heads, and read as one."""

import torch
from torch import Tensor

from .. import checks


def check(
    by_head: tuple[int, ...], q: Tensor, log_decay: Tensor | None, n_states: int | None, mix: Tensor | None
) -> None:
    """What several memories need, beside tokens whose axes up to the heads are ``by_head``."""
    if n_states is None:
        raise ValueError("mix is given without n_states; it weighs the memories of n_states.")
    if n_states < 1:
        raise ValueError(f"n_states is {n_states}; allowed are 1 and more.")
    if mix is None:
        raise ValueError(f"mix is None; with n_states = {n_states} it is [..., H, {n_states}, 2].")
    checks.parameter("mix", mix, q, (*by_head, n_states, 2))
    if log_decay is not None:
        checks.parameter("log_decay", log_decay, q, (by_head[-1], n_states), (*by_head, n_states))


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
