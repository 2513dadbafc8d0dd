"""A condition without a lock: wait until something changed, then look again.

anyio's event takes several microseconds to make, which a request would pay a few times; a loop's own takes a fraction
of one.

A loop runs a woken task in its next round, after another look at all sockets.  Where bytes wake a task that will answer
them, that round is a good part of what the gateway adds, so `Wake.hand_over` runs the task then and there.
"""

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context, copy_context
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


class _Turn(asyncio.Future[None]):
    """A future whose waiter can be run now instead of in the loop's next round."""

    _resume: tuple[Callable[[Any], object], Context] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """Remember who waits, beside what the loop's own future does."""
        context = context or copy_context()
        self._resume = (fn, context)
        super().add_done_callback(fn, context=context)

    def run(self) -> None:
        """Be done, and run whoever waits."""
        resume, self._resume = self._resume, None
        if resume is not None:
            self.remove_done_callback(resume[0])
        self.set_result(None)
        if resume is not None:
            resume[1].run(resume[0], self)


class Wake:
    """Wakes everyone who waits, and forgets: who comes later waits for the next change.  One loop, no threads.

    Nobody may ever call `set`, so what waited and was cancelled is dropped: it must not pile up.
    """

    __slots__ = ("_events", "_futures")

    def __init__(self) -> None:
        self._futures: list[_Turn] = []
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

    def hand_over(self) -> None:
        """Wake all waiters, and run them before this returns, where no task is running: in a callback of the loop.

        Whatever they do has then been done, so this comes last, after all else that the caller has to put in order.
        """
        if self._futures and asyncio.current_task() is None:
            futures, self._futures = self._futures, []
            for future in futures:
                if not future.done():
                    future.run()
        self.set()

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
        future = _Turn(loop=loop)
        futures = self._futures
        futures.append(future)
        try:
            await future
        finally:
            if future.cancelled() and self._futures is futures:
                futures.remove(future)
