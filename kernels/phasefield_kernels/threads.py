"""One thread for loops of small ops on a CPU.

Two Python threads, each with half of the lanes, are no way out: between ops of 20 µs they hand the
interpreter's lock to each other, at some 10 µs a time. Measured on two cores, the scans took from 0.7 to 2
times as long as on one thread.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

_WORTH_TWO_THREADS = 1 << 16  # elements an op; measured, see the docstring below


class one_thread(AbstractContextManager):  # noqa: N801
    """Run a block on one thread, then restore the setting."""

    # A class, as a generator takes three times as long.

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.before != 1:
            torch.set_num_threads(1)

    def __exit__(self, *exception: object) -> None:
        if self.before != 1:
            torch.set_num_threads(self.before)


def one_thread_if_small(elements: int, worth: int = _WORTH_TWO_THREADS) -> AbstractContextManager[None]:
    """:func:`one_thread` if each op of a block touches fewer than ``worth`` elements.

    torch splits cos, tanh and exp over its threads from 2,048 elements on, and waking a thread costs
    more than such an op: with sleeping workers (GOMP_SPINCOUNT=0) a scan step of 8,192 lanes takes
    2.6 times as long on two threads as on one. From 65,536 elements on, threads pay.
    """
    return one_thread() if elements < worth else nullcontext()
