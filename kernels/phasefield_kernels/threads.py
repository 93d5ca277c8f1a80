"""One thread for loops of small ops on a CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_WORTH_TWO_THREADS = 1 << 16  # elements an op; measured, see the docstring below


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block on one thread, then restore the setting."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def one_thread_if_small(elements: int, worth: int = _WORTH_TWO_THREADS) -> AbstractContextManager[None]:
    """:func:`one_thread` if each op of a block touches fewer than ``worth`` elements.

    torch splits cos, tanh and exp over its threads from 2,048 elements on, and waking a thread costs
    more than such an op: with sleeping workers (GOMP_SPINCOUNT=0) a scan step of 8,192 lanes takes
    2.6 times as long on two threads as on one. From 65,536 elements on, threads pay.
    """
    return one_thread() if elements < worth else nullcontext()
