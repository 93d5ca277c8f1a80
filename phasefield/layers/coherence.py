"""Coherence of a moving window: how much the last few states point one way."""

import torch
from torch import Tensor

_SQUARINGS = 8
_STILL = 1e-5  # of the mean square: float32 products of unit vectors cancel to about 1e-7


def window_coherence(x: Tensor, window: int = 5) -> Tensor:
    """The share of the largest principal component in the last ``window`` states, of the past alone.

        ``λ_max(C_t) / trace(C_t)``,    C_t the centred covariance of ``x_{t-window+1} … x_t``

    1: the window moves along one line; ``1 / (window − 1)``: it spreads evenly. The ``window × window`` Gram
    matrix has the covariance's eigenvalues but for zeros; squared eight times and rescaled each time, it
    gives λ_max as a Rayleigh quotient (256 steps of power iteration, started from every state at once).

    Warm-up: two states always lie on a line, and a window that stands still has no direction. Positions with
    fewer than three states, and windows without motion (a trace under 1e-5 of their square), have
    coherence 0.

    Args:
        x: ``[B, T, D]``, read in float32.
        window: states, at least 3; the first ones of a sequence see what there is. 5 is the origin's.

    Returns:
        ``[B, T]`` float32 in [0, 1].

    Raises:
        ValueError: a window under 3, or an x of another shape.

    >>> line = torch.arange(6.0)[None, :, None] * torch.ones(3)
    >>> window_coherence(line)[0].tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    >>> round(float(window_coherence(torch.eye(5)[None])[0, 4]), 3)  # five directions: 1 / (5 - 1)
    0.25
    """
    if window < 3:
        raise ValueError(f"window is {window}; it must be at least 3, as two states always lie on a line.")
    if x.ndim != 3:
        raise ValueError(f"x has shape {list(x.shape)}; allowed is [B, T, D].")
    x = x.float()
    gram = _gram(x, window)
    back = torch.arange(window, device=x.device)
    present = back <= torch.arange(x.shape[1], device=x.device)[:, None]  # the first windows are not full
    count = present.sum(1)
    square = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Centring the states takes the rows' and the columns' means out of the Gram matrix.
    gram = gram - gram.sum(-1, keepdim=True) / count[:, None, None]
    gram = gram - gram.sum(-2, keepdim=True) / count[:, None, None]
    gram = gram * (present[:, :, None] & present[:, None, :])
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    moves = (count >= 3) & (trace > _STILL * square)
    gram = gram / torch.where(moves, trace, 1.0)[..., None, None]
    power = gram
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-30)[..., None, None]
    largest = (power * gram).sum((-2, -1))
    return torch.where(moves, largest, 0.0).clamp_(0, 1)


def _gram(x: Tensor, window: int) -> Tensor:
    """``⟨x_{t-a}, x_{t-b}⟩`` at ``[B, T, a, b]``, 0 before the start, from ``window`` products a token."""
    batch, length, _ = x.shape
    gram = x.new_zeros(batch, length, window, window)
    for lag in range(min(window, length)):
        product = (x[:, lag:] * x[:, : length - lag]).sum(-1)
        for a in range(min(window - lag, length - lag)):
            entries = product[:, : length - lag - a]
            gram[:, lag + a :, a, a + lag] = entries
            gram[:, lag + a :, a + lag, a] = entries
    return gram
