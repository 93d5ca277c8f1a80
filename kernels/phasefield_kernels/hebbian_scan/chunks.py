"""How hebbian_scan's torch form cuts time: groups of chunks, copied to where matrix products run fast.

A group is a few chunks that fit the cache together. Its tokens are copied head by head, ``[n, C, D]`` with
n = B · H · G for G chunks, as real or complex numbers in the state's dtype. What is left of the sequence
after whole chunks is a group of one short chunk.
"""

import torch
from torch import Tensor

from ..checks import state_dtype

CHUNK = 32
_GROUP = 1 << 16  # numbers of each tensor of a group: 256 kB in float32, a dozen of them for the cache
_VANISHED = -800.0  # exp of it is 0 in float64 too; sums of it stay finite


def spans(shape: tuple[int, ...], columns: int) -> list[tuple[int, int, int]]:
    """(first step, chunks, steps a chunk) of the groups of q ``[B, T, H, K(, 2)]`` beside V columns."""
    batch, length, heads, inner = shape[:4]
    numbers = batch * heads * max(inner, columns) * (shape[4] if len(shape) == 5 else 1)
    chunks = max(1, min(_GROUP // (CHUNK * max(1, numbers)), length // CHUNK))
    found = []
    begin = 0 if numbers else length
    while length - begin >= CHUNK:
        count = min(chunks, (length - begin) // CHUNK)
        found.append((begin, count, CHUNK))
        begin += count * CHUNK
    if begin < length:
        found.append((begin, 1, length - begin))
    return found


class Group:
    """One group: its place in time, and copies to and from there.

    Attributes:
        chunks, steps: G and C.
        rows: B · H · G.
    """

    def __init__(self, main: Tensor, span: tuple[int, int, int]) -> None:
        self.begin, self.chunks, self.steps = span
        self.batch, self.heads = main.shape[0], main.shape[2]
        self.dtype = state_dtype(main)
        self.complex = main.ndim == 5
        self.rows = self.batch * self.heads * self.chunks

    def view(self, tensor: Tensor) -> Tensor:
        """``[B, T, H, …]`` as ``[B, H, G, C, …]``."""
        piece = tensor[:, self.begin : self.begin + self.chunks * self.steps]
        return piece.unflatten(1, (self.chunks, self.steps)).movedim(3, 1)

    def take(self, tensor: Tensor) -> Tensor:
        """``[B, T, H, D(, 2)]`` → a copy ``[n, C, D]``."""
        view = self.view(tensor)
        copy = torch.empty(view.shape, dtype=self.dtype, device=tensor.device).copy_(view)
        copy = copy.view(self.rows, *view.shape[3:])
        return torch.view_as_complex(copy) if self.complex else copy

    def put(self, tensor: Tensor, value: Tensor) -> None:
        """The inverse of :meth:`take`: into a ``[B, T, H, D(, 2)]``."""
        view = self.view(tensor)
        view.copy_((torch.view_as_real(value) if self.complex else value).view(view.shape))

    def take_by_head(self, tensor: Tensor) -> Tensor:
        """``[B, T, H]`` → a copy ``[n, C, 1]``."""
        return self.view(tensor).to(self.dtype).reshape(self.rows, self.steps, 1)

    def put_by_head(self, tensor: Tensor, value: Tensor) -> None:
        """``[n, C]`` into a ``[B, T, H]``."""
        view = self.view(tensor)
        view.copy_(value.view(view.shape))


class Decay:
    """The decays within a group's chunks; all ones (and the factors None) without a log-decay.

    With s the running sum of log γ in a chunk, the products of decays are
      since_start  e^{s_i}, over steps 0 … i,     until_end  e^{s_{C-1} − s_j}, over steps j + 1 … C − 1,
      whole        e^{s_{C-1}},                   between    e^{s_i − s_j} for j ≤ i, 0 for j > i.
    Exponents are ≤ 0, or −∞ where masked. s is summed in float64, so that differences of sums stay exact
    after a decay to nothing.

    Attributes:
        since_start, until_end: ``[n, C, 1]``.
        whole: ``[B · H, G, 1, 1]``.
        between: ``[n, C, C]``, or ``[C, C]`` without decay.
    """

    def __init__(self, group: Group, log_decay: Tensor | None, device: torch.device) -> None:
        steps = group.steps
        masked = torch.ones(steps, steps, dtype=torch.bool, device=device).triu_(1)
        self.since_start = self.until_end = self.whole = None
        if log_decay is None:
            self.between = (~masked).to(group.dtype)
            return
        if log_decay.ndim == 1:
            logs = log_decay.view(1, -1, 1, 1).expand(1, -1, 1, steps)
        else:
            logs = group.view(log_decay)
        s = logs.double().clamp(min=_VANISHED).cumsum(-1)
        between = (s.unsqueeze(-1) - s.unsqueeze(-2)).to(group.dtype)
        between = between.masked_fill_(masked, -torch.inf).exp_()
        since_start, until_end = s.exp().to(group.dtype), (s[..., -1:] - s).exp_().to(group.dtype)
        if log_decay.ndim == 1:
            between, since_start, until_end = (
                t.expand(group.batch, -1, group.chunks, *t.shape[3:])
                for t in (between, since_start, until_end)
            )
        self.between = between.reshape(group.rows, steps, steps)
        self.since_start = since_start.reshape(group.rows, steps, 1)
        self.until_end = until_end.reshape(group.rows, steps, 1)
        self.whole = since_start[..., -1].reshape(group.batch * group.heads, group.chunks, 1, 1)


def scaled(value: Tensor, factor: Tensor | None) -> Tensor:
    """The value times real factors; the value itself where there are none."""
    return value if factor is None else value * factor


def scale_(value: Tensor, factor: Tensor | None) -> Tensor:
    """:func:`scaled` in place.

    Complex times real: torch's complex product takes a third of the time of two real ones, whose factor it
    would repeat for each pair.
    """
    return value if factor is None else value.mul_(factor)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """``Re Σ conj(a) b`` over the last axis."""
    if a.is_complex():
        a, b = torch.view_as_real(a).flatten(-2), torch.view_as_real(b).flatten(-2)
    return torch.linalg.vecdot(a, b)
