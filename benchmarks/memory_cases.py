"""Cases of the matrix memories."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from phasefield_kernels import (
    hebbian_scan,
    hebbian_scan_step_,
    phase_hebbian_scan,
    phase_hebbian_scan_step_,
)
from phasefield_kernels.hebbian_scan.configs import config
from phasefield_kernels.hebbian_scan.operator import RULES

from .case import DTYPES, LOOSE, Bound, Case, Scan, short

# batch, length, heads, K, V: a few chunks; usual and the widest heads (only compiled); odd sizes; one token.
SMALL = (1, 128, 1, 32, 64)
NARROW = (2, 256, 2, 64, 64)
WIDE = (2, 256, 2, 256, 256)
ODD = (1, 37, 1, 19, 21)
DECODING = (2, 1, 2, 64, 64)

# Sums by token of β and the log-decay are written a part for each block of columns before they are added.
CHUNKED = Bound(unique=1.05, sectors=1.05)


def _inputs(
    dtype: torch.dtype, is_complex: bool, plain: bool, packed: bool, shape: tuple[int, ...]
) -> dict[str, Tensor | None]:
    batch, length, heads, columns, rows = shape
    pair = (2,) if is_complex else ()
    by_head = (batch, length, heads)
    return {
        "q": torch.randn(*by_head, columns, *pair).to(dtype),
        # Not longer than 1, as the delta rule wants it.
        "k": (torch.rand(*by_head, columns, *pair) / (2 * columns) ** 0.5).to(dtype),
        "v": torch.randn(*by_head, rows, *pair).to(dtype),
        "log_decay": None if plain else -torch.rand(by_head),
        "beta": None if plain else torch.rand(by_head),
        "initial_state": None if plain else torch.randn(2 if packed else batch, heads, rows, columns, *pair),
        "cu_seqlens": torch.tensor([0, length // 3, length]) if packed else None,
    }


def _between(dtype: torch.dtype, is_complex: bool, delta: bool, shape: tuple[int, ...]) -> tuple[int, int]:
    """Bytes that launches hand to each other or read again, forward and backward.

    A tensor by token and number counts D · its size; one of real numbers by token (β, log-decay) 4 bytes.
    """
    batch, length, heads, columns, rows = shape
    parts, tokens = 1 + is_complex, batch * length * heads
    chunk = config(dtype, is_complex, delta, columns, rows).chunk
    number = parts * dtype.itemsize
    K, V, M = (tokens * width * number for width in (columns, rows, chunk))
    by_head = 4 * tokens
    states = batch * -(-length // chunk) * heads * rows * columns * number
    final = batch * heads * rows * columns * parts * 4
    if delta:
        # U₀, W and U; k and the log-decay by all three launches.
        forward = 2 * states + (2 * V + 2 * K + 2 * V) + 2 * K + 2 * by_head
        # As before with M; (Q Kᴴ ⊙ G)ᴴ dY and dU; dS; W, k, q and dY are read again.
        backward = 4 * states + 4 * V + 3 * K + 2 * M + 4 * V + (4 + 2) * K + (1 + 2) * V + 6 * by_head
    else:
        forward = 2 * states + K + V + 2 * by_head
        backward = (2 + 3) * states + (2 + 2) * K + (2 + 2) * V + 5 * by_head
    return forward, backward + final


def _scan(
    path: str,
    dtype: torch.dtype,
    is_complex: bool,
    rule: str,
    shape: tuple[int, ...],
    plain: bool = False,
    packed: bool = False,
) -> Scan:
    return Scan(
        f"{path}, {rule}, {short(dtype)}",
        partial(phase_hebbian_scan if is_complex else hebbian_scan, rule=rule),
        partial(_inputs, dtype, is_complex, plain, packed, shape),
        saves_first=True,
        saves_output=False,
        between=_between(dtype, is_complex, rule == "delta", shape),
    )


def _cases(is_complex: bool) -> Iterator[Case]:
    # Every configuration of the tables; traffic of one rule each.
    rule = "hebb" if is_complex else "delta"
    small = _scan("small", torch.bfloat16, is_complex, rule, SMALL)
    yield small.forward(CHUNKED, quick=True)
    yield small.backward(CHUNKED, quick=True)
    for dtype, rule in product(DTYPES, RULES):
        wide = _scan("wide", dtype, is_complex, rule, WIDE)
        yield wide.forward()
        yield wide.backward()
    for rule in () if is_complex else RULES:
        narrow = _scan("narrow", torch.bfloat16, is_complex, rule, NARROW)
        yield narrow.forward()
        yield narrow.backward()
    packed = _scan("packed, odd sizes", torch.float32, is_complex, "delta", ODD, packed=True)
    yield packed.forward(LOOSE)
    yield packed.backward(LOOSE)
    step_ = phase_hebbian_scan_step_ if is_complex else hebbian_scan_step_

    def step(*arguments: Tensor | None, backend: str) -> Tensor:
        *token, state = arguments
        return step_(*token, "delta", state, backend=backend)

    yield _scan("decoding", torch.bfloat16, is_complex, "delta", DECODING).step(step, CHUNKED)


def hebbian_scan_cases() -> Iterator[Case]:
    """The delta rule's traffic; both rules, both dtypes, one step."""
    return _cases(is_complex=False)


def phase_hebbian_scan_cases() -> Iterator[Case]:
    """Hebb's traffic; both rules, both dtypes, one step."""
    return _cases(is_complex=True)
