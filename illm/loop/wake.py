"""A condition without a lock: wait until something changed, then look again.

anyio's event takes several microseconds to make, which a request would pay a few times; a loop's own takes a fraction
of one.
"""

import asyncio
import sys
from typing import Any

import anyio


def native_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop that runs the current task; None under trio, also where trio is asyncio's guest."""
    loop = asyncio._get_running_loop()  # documented for frameworks; never raises
    if loop is not None:
        trio: Any = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_task():
            return None
    return loop


class Wake:
    """Wakes everyone who waits, and forgets: who comes later waits for the next change.  One loop, no threads.

    Nobody may ever call `set`, so what waited and was cancelled is dropped: it must not pile up.
    """

    __slots__ = ("_events", "_futures")

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []
        self._events: list[anyio.Event] | None = None

    def set(self) -> None:
        """Wake all waiters."""
        if self._futures:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():  # a task that is being cancelled is woken by that
                    future.set_result(None)
        if self._events is not None:
            events, self._events = self._events, None
            for event in events:
                event.set()

    async def wait(self) -> None:
        """Wait for the next `set`.  Between looking and waiting there must be no other `await`."""
        loop = native_loop()
        if loop is None:
            event = anyio.Event()
            if self._events is None:
                self._events = []
            self._events.append(event)
            try:
                await event.wait()
            finally:
                if not event.is_set() and self._events is not None:
                    self._events.remove(event)
            return
        future = loop.create_future()
        futures = self._futures
        futures.append(future)
        try:
            await future
        finally:
            if future.cancelled() and self._futures is futures:
                futures.remove(future)
