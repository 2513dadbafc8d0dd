"""A thread that has nothing to do lets its pool of OpenMP threads go, as others pay for it.

Threads of GNU's OpenMP meet hundreds of times in a step, and spin for each other while there are no more of them in the
process than cores, in all pools together; with more they sleep, and a step takes half as long again.  So an embedder
that has answered once would slow a language model beside it for good, though it does nothing any more.  A pool is made
again at the next product, which after a rest takes no longer than with one that has to be woken.
"""

import ctypes
import sys
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

_T = TypeVar("_T")

PATIENCE = 0.05
"""Seconds without work after which a pool goes: those who come one after another find it still there."""

_SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0: what a program has set stays as it is."""


def take(queue: "SimpleQueue[_T]") -> _T:
    """Wait for the next item; after a while without one, let the calling thread's pool go first."""
    try:
        return queue.get(timeout=PATIENCE)
    except Empty:
        leave_pool()
        return queue.get()


def leave_pool() -> bool:
    """End the other threads of the calling thread's OpenMP pool.

    Returns:
        whether OpenMP did so; False as well where torch is not loaded or has another OpenMP than GNU's.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    with suppress(AttributeError, OSError):  # an OpenMP older than 5.0, or none
        openmp = ctypes.CDLL(torch._C.__file__)  # finds what torch itself is linked to
        if hasattr(openmp, "__kmpc_fork_call"):  # LLVM's, whose pause concerns every thread of the process
            return False
        return int(openmp.omp_pause_resource(_SOFT, openmp.omp_get_initial_device())) == 0
    return False
