"""Ways to solve a diagonal linear recurrence, h_t = a_t h_{t-1} + u_t, that people use in PyTorch.

An op hands over its coefficients, ``a`` (``[D, …]``, or ``[B, T, D, …]``) and ``u`` ``[B, T, D, …]``, real or
complex, and reads its output from all states.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..operation import FORWARD, SINGLE, TRAINING, Peer
from .gpu import accelerated_scan

Coefficients = Callable[..., tuple[Tensor, Tensor]]
ReadOut = Callable[..., Tensor]


def by_loop(a: Tensor, u: Tensor) -> Tensor:
    """One step after the other, over tensors taken apart once (indexing makes the backward quadratic)."""
    h, states = torch.zeros_like(u[:, 0]), []
    for a_t, u_t in zip(a.expand_as(u).unbind(1), u.unbind(1), strict=True):
        h = a_t * h + u_t
        states.append(h)
    return torch.stack(states, dim=1)


def by_associative_scan(a: Tensor, u: Tensor) -> Tensor:
    """The ``associative_scan`` of torch, uncompiled, in its form for any device."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    pairs = (a.expand_as(u).contiguous(), u)
    return associative_scan(combine, pairs, dim=1, combine_mode="generic")[1]


def by_fft(a: Tensor, u: Tensor) -> Tensor:
    """A convolution with the powers of a constant ``a`` in Fourier space, padded to twice the length."""
    length = u.shape[1]
    time = torch.arange(length, device=u.device, dtype=a.real.dtype).view(-1, *[1] * a.ndim)
    powers = torch.polar(a.abs() ** time, a.angle() * time)
    size = 2 * length
    product = torch.fft.fft(u, size, dim=1) * torch.fft.fft(powers, size, dim=0)
    return torch.fft.ifft(product, dim=1)[:, :length]


def by_pscan(a: Tensor, u: Tensor) -> Tensor:
    """The parallel scan of mambapy, on real ``[B, T, D, N]``."""
    from mambapy.pscan import pscan

    return pscan(a, u)


def linear_peers(
    coefficients: Coefficients,
    read_out: ReadOut,
    *,
    constant: bool = False,
    pscan: bool = False,
    longest: int = 16_384,
) -> tuple[Peer, ...]:
    """The solvers as peers of an op.

    Args:
        coefficients: the op's inputs by name → ``(a, u)``.
        read_out: all states and the op's inputs → the output.
        constant: ``a`` does not depend on time, so that a convolution works.
        pscan: ``a`` and u are real and ``[B, T, D, N]``.
        longest: the longest T that is waited for.
    """
    solvers = {"unbind loop": by_loop, "associative_scan": by_associative_scan}
    solvers |= {"FFT convolution": by_fft} if constant else {}
    solvers |= {"mambapy pscan": by_pscan} if pscan else {}

    def through(solver: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(**inputs: Tensor) -> Tensor:
            return read_out(solver(*coefficients(**inputs)), **inputs)

        return run

    peers = tuple(
        Peer(
            name,
            through(solver),
            package="mambapy" if solver is by_pscan else None,
            longest={FORWARD: longest, TRAINING: longest},
        )
        for name, solver in solvers.items()
    )
    if not pscan:
        return peers
    warp = Peer(
        "accelerated-scan",
        through(accelerated_scan),
        package="accelerated_scan",
        gpu_only=True,
        precision=SINGLE,
    )
    return (*peers, warp)
