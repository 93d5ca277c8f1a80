"""A table of fixed size whose sites are claimed by 64-bit phases as they first come."""

import math

import torch
from torch import Tensor, nn

from .golden import golden_frequencies

_WAYS = 16  # their tags fill a cache line
_EMPTY = 0


class SiteTable(nn.Module):
    """Amplitudes at the sites of a crystal, addressed by phase: a sparse matrix that grows until it is full.

    A phase is scattered over the table by multiplications with golden frequencies (Fibonacci hashing, made
    nonlinear by two folds) and may claim one of the sixteen sites there; a 31-bit tag says whose a site is.
    Two phases take each other's site with a probability of 2^-26 a look-up. When all are taken, further
    phases are not stored and read as 0.

    Everything is deterministic: sums over equal phases are formed before they are added.

    Args:
        sites: a power of two, at least 16.
        width: amplitudes a site.
        dtype: of the amplitudes: float32, bfloat16 or float16. In 16 bits sums are rounded stochastically:
            up or down with the probability that makes the mean right.

    >>> table = SiteTable(16, 1)
    >>> table.add_(table.claim(torch.tensor([7, 8])), torch.tensor([[1.0], [2.0]]))
    >>> table.read(table.find(torch.tensor([8, 9, 7]))).flatten().tolist()
    [2.0, 0.0, 1.0]
    """

    def __init__(self, sites: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if sites < _WAYS or sites & (sites - 1):
            raise ValueError(f"sites is {sites}; it must be a power of two, at least {_WAYS}.")
        self.width = width
        self._shift = 62 - int(math.log2(sites // _WAYS))
        self.register_buffer("tags", torch.full((sites,), _EMPTY, dtype=torch.int32))
        self.register_buffer("amplitudes", torch.zeros(sites, width, dtype=dtype))

    @property
    def occupied(self) -> int:
        """Sites that a phase has claimed."""
        return int((self.tags != _EMPTY).sum())

    def find(self, phases: Tensor) -> Tensor:
        """The sites of int64 phases, any shape; −1 where a phase has none."""
        return self._find(*self._address(phases))

    def _find(self, bucket: Tensor, tag: Tensor) -> Tensor:
        match = self.tags.view(-1, _WAYS)[bucket] == tag.unsqueeze(-1)
        way = match.byte().argmax(-1)
        return torch.where(match.any(-1), bucket * _WAYS + way, -1)

    def read(self, sites: Tensor) -> Tensor:
        """Float32 amplitudes ``[…, width]`` at sites ``[…]``; 0 at −1."""
        return self.amplitudes[sites.clamp_min(0)].float() * (sites >= 0).unsqueeze(-1)

    def claim(self, phases: Tensor) -> Tensor:
        """The sites of distinct phases ``[n]``, new ones for those that had none; −1 where all are taken."""
        return self._claim(*self._address(phases))

    def claim_of(self, other: "SiteTable") -> Tensor:
        """For each of another table's sites, of as many, the one of the same phase here; −1 where none is."""
        theirs = (other.tags != _EMPTY).nonzero().squeeze(1)
        sites = torch.full_like(other.tags, -1, dtype=torch.int64)
        sites[theirs] = self._claim(theirs // _WAYS, other.tags[theirs])
        return sites

    def _claim(self, bucket: Tensor, tag: Tensor) -> Tensor:
        sites = self._find(bucket, tag)
        homeless = (sites < 0).nonzero().squeeze(1)
        bucket, order = torch.sort(bucket[homeless], stable=True)
        homeless = homeless[order]
        # The r-th newcomer of a bucket takes its r-th empty way.
        at = torch.arange(len(bucket), device=bucket.device)
        first = torch.cat([bucket[:1] == bucket[:1], bucket[1:] != bucket[:-1]])
        rank = at - torch.where(first, at, 0).cummax(0).values
        empty = self.tags.view(-1, _WAYS)[bucket] == _EMPTY
        mine = empty & (empty.cumsum(-1) == rank.unsqueeze(-1) + 1)
        housed = mine.any(-1)
        taken = (bucket * _WAYS + mine.byte().argmax(-1))[housed]
        homeless = homeless[housed]
        self.tags[taken] = tag[homeless]
        sites[homeless] = taken
        return sites

    def free_(self, sites: Tensor) -> None:
        """Forget whose the sites ``[n]`` are, and their amplitudes."""
        self.tags[sites] = _EMPTY
        self.amplitudes[sites] = 0

    def add_(self, sites: Tensor, changes: Tensor, generator: torch.Generator | None = None) -> None:
        """Add ``[n, width]`` to the amplitudes of distinct sites ``[n]`` (those at −1 are dropped).

        Args:
            sites: of the changes.
            changes: float32.
            generator: of the stochastic rounding, which 16-bit amplitudes need.
        """
        kept = sites >= 0
        sites, changes = sites[kept], changes[kept]
        total = self.amplitudes[sites].float() + changes
        self.amplitudes[sites] = _rounded(total, self.amplitudes.dtype, generator)

    def _address(self, phases: Tensor) -> tuple[Tensor, Tensor]:
        turn, twist = _MULTIPLIERS
        mixed = phases * turn
        mixed = (mixed ^ (mixed >> 29)) * twist
        mixed = mixed ^ (mixed >> 32)
        bucket = (mixed & 0x3FFFFFFFFFFFFFFF) >> self._shift
        return bucket, (mixed & 0x7FFFFFFF | 1).int()

    def extra_repr(self) -> str:
        return f"sites={len(self.tags)}, width={self.width}, dtype={self.amplitudes.dtype}"


_MULTIPLIERS = tuple(int(frequency) for frequency in golden_frequencies(2))


def _rounded(x: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    if dtype == torch.float32:
        return x
    near = x.to(dtype)
    error = x - near.float()
    # The neighbour on the other side of x, reached with the probability of the distance in steps.
    towards = torch.where(error > 0, math.inf, -math.inf).to(dtype)
    other = torch.nextafter(near, towards)
    step = (other.float() - near.float()).abs()
    draw = torch.rand(x.shape, generator=generator, device=x.device)
    return torch.where((error != 0) & (draw * step < error.abs()), other, near)
