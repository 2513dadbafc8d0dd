"""Threads that compute give way to those that answer.

A model takes every core for as long as it gets it.  With all threads alike, Linux lets one that computes go on to the
end of its slice, some milliseconds, before the event loop runs that has just been woken: every request of every other
backend waits for that.

So do models to each other: beside an embedder as eager as itself, a language model has to wait for a slice of its at
every one of the hundreds of points in a step where its threads meet.
"""

import os
import sys
import threading
from contextlib import suppress

STEPS = 5
"""How much nicer each time; a core that nobody else wants is still wholly theirs, and none is ever denied one."""
_NICEST = 19


def give_way() -> None:
    """Make the calling thread nicer, and those it will start (OpenMP's), where the system tells threads apart."""
    if sys.platform != "linux":  # elsewhere the number names a process
        return
    thread = threading.get_native_id()
    with suppress(OSError):  # forbidden by a sandbox: it runs as before
        os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, os.getpriority(os.PRIO_PROCESS, thread) + STEPS))
