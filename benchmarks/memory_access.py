"""Every access of a launch to memory: how many bytes, in whose tensor, and whether two programs clash."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

SECTOR = 32
"""Bytes that a GPU fetches at the least."""


class Access(NamedTuple):
    """One load, store or atomic of one program: the addresses of its elements, each once, ascending."""

    addresses: np.ndarray
    element_size: int
    program: int
    reads: bool
    writes: bool

    def inside(self, low: int, high: int) -> "Access":
        """What of it lies between two addresses."""
        begin, end = np.searchsorted(self.addresses, (low, high))
        return self._replace(addresses=self.addresses[begin:end])


def sector_bytes(addresses: np.ndarray, element_size: int) -> int:
    """Bytes of the sectors that a single load or store touches."""
    first, last = addresses // SECTOR, (addresses + element_size - 1) // SECTOR
    return SECTOR * np.unique(np.concatenate([first, last])).size


def unique_bytes(accesses: Iterable[Access]) -> int:
    """Bytes touched, each counted once."""
    by_size: dict[int, list[np.ndarray]] = {}
    for access in accesses:
        by_size.setdefault(access.element_size, []).append(access.addresses)
    return sum(size * np.unique(np.concatenate(parts)).size for size, parts in by_size.items())


def span(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor begins and ends in memory; the holes of a strided view are inside."""
    if not tensor.numel():
        return 0, 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()


def outside(addresses: np.ndarray, element_size: int, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Those of the addresses whose element lies in none of the spans."""
    inside = np.zeros(addresses.shape, bool)
    for low, high in spans:
        inside |= (addresses >= low) & (addresses + element_size <= high)
    return addresses[~inside]


def races(accesses: list[Access]) -> list[str]:
    """Clashes between programs, which a GPU runs in any order: one writes what another reads or writes.

    Atomics may meet each other, but not plain loads and stores. Not found: races inside one program.
    """
    stores = [a for a in accesses if a.writes and not a.reads]
    loads = [a for a in accesses if a.reads and not a.writes]
    atomics = [a for a in accesses if a.reads and a.writes]
    pairs = (
        ("store and store", stores, stores),
        ("store and load", stores, loads),
        ("store and atomic", stores, atomics),
        ("atomic and load", atomics, loads),
    )
    return [found for name, some, others in pairs if (found := _clash(name, some, others))]


def _clash(name: str, some: list[Access], others: list[Access]) -> str | None:
    if not some or not others:
        return None
    addresses, programs = _flat(some)
    order = np.argsort(addresses, kind="stable")
    known, first = np.unique(addresses[order], return_index=True)
    lowest = np.minimum.reduceat(programs[order], first)
    highest = np.maximum.reduceat(programs[order], first)
    addresses, programs = _flat(others)
    place = np.minimum(np.searchsorted(known, addresses), known.size - 1)
    same = known[place] == addresses
    clashing = same & ((lowest[place] != programs) | (highest[place] != programs))
    if not clashing.any():
        return None
    at = int(np.argmax(clashing))
    other = int(lowest[place[at]] if lowest[place[at]] != programs[at] else highest[place[at]])
    count = np.unique(addresses[clashing]).size
    return f"{name} of {count} addresses, e.g. by programs {other} and {int(programs[at])}"


def _flat(accesses: list[Access]) -> tuple[np.ndarray, np.ndarray]:
    programs = [np.full(access.addresses.size, access.program) for access in accesses]
    return np.concatenate([access.addresses for access in accesses]), np.concatenate(programs)


def of_pointers(pointers: Any, mask: Any) -> tuple[np.ndarray, int]:
    """The addresses an interpreted load or store asks for, masked ones left out, and the elements' size."""
    addresses = pointers.data.astype(np.int64).ravel()
    if mask is not None:
        addresses = addresses[np.broadcast_to(mask.data, pointers.data.shape).ravel().astype(bool)]
    return addresses, max(1, pointers.get_element_ty().primitive_bitwidth // 8)
