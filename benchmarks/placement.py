"""Which processes may run on which cores: the same for every system."""

import os
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

FREE, SPLIT = "free", "split"
PLACEMENTS = {
    FREE: "the operating system places every process; nothing is pinned",
    SPLIT: "the system under test has one core to itself; load generator and upstream share the other",
}


chosen: ContextVar[str] = ContextVar("placement", default=FREE)
"""What the command line says; the suite is one run of one process, and no scenario decides otherwise."""


def place(load: Iterable[int], system: Iterable[int]) -> None:
    """Put processes where `chosen` says they belong.

    Args:
        load: load generator and upstream.
        system: what is under test.
    """
    if chosen.get() == SPLIT:
        ours, theirs = sides()
        restrict(load, ours)
        restrict(system, theirs)


def restrict(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Keep processes, with all their threads and what they start from now on, on some cores; one that is gone is left.

    Linux only.
    """
    allowed = set(cores)
    for pid in pids:
        with suppress(OSError):
            for thread in (Path("/proc") / str(pid) / "task").iterdir():
                os.sched_setaffinity(int(thread.name), allowed)


def sides() -> tuple[set[int], set[int]]:
    """Return the cores of the load and those of the system under test; the same ones where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[0]}, {cores[-1]}
