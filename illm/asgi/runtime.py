"""What keeps the actors running: one directory and one task group for each event loop that uses the application.

Three ways to start, in order: the ASGI lifespan; `async with gateway.running()` in the lifespan of a host that mounts
the application (Starlette forwards none); last, the first request starts it once and says so.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import anyio
import anyio.lowlevel

from illm import log
from illm.actors.directory import Directory
from illm.asgi.access_log import Journal
from illm.errors import GatewayError, Kind
from illm.loop.tasks import hold
from illm.loop.wake import native_loop

logger = logging.getLogger("illm.runtime")


class Running(NamedTuple):
    """What runs in one event loop."""

    directory: Directory
    journal: Journal


class Runtime:
    """The actors of one application, by event loop.

    Args:
        make_directory: builds the directory of one loop.
    """

    def __init__(self, make_directory: Callable[[], Directory]) -> None:
        self._make_directory = make_directory
        self._running: dict[Any, Running] = {}
        self._starting: dict[Any, anyio.Event] = {}
        self._held: dict[Any, object] = {}
        self._over: WeakSet[Any] = WeakSet()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Directory]:
        """Run the actors while the block lasts; within another such block of the same loop, share its actors."""
        loop = _this_loop()
        if loop in self._running:
            yield self._running[loop].directory
            return
        directory, journal = self._make_directory(), Journal()
        self._over.discard(loop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.run)
            directory.open(tasks)
            self._running[loop] = Running(directory, journal)
            try:
                yield directory
            finally:
                del self._running[loop]
                self._over.add(loop)
                directory.close()
                tasks.cancel_scope.cancel()

    def here(self) -> Running | None:
        """Return what runs in this loop, if something does."""
        return self._running.get(_this_loop())

    async def directory(self) -> Directory:
        """Return this loop's directory, starting it where nobody has.

        Raises:
            GatewayError: `SHUTTING_DOWN` after the end of `running`, `NOT_READY` where starting failed.
        """
        running = self.here()
        return running.directory if running is not None else await self._adopt(_this_loop())

    def drain(self) -> None:
        """Take no more requests in this loop; servers in other loops may go on."""
        running = self.here()
        if running is not None:
            running.directory.drain()
        log.flush()

    async def _adopt(self, loop: Any) -> Directory:
        if loop in self._over:  # a late request must not load a model again
            raise GatewayError(Kind.SHUTTING_DOWN, "The gateway is shutting down")
        if loop not in self._starting:
            logger.warning("started by the first request: no lifespan reached the application (see docs/architecture)")
            self._starting[loop] = anyio.Event()
            self._held[loop] = hold(lambda: self._run(loop), "illm:runtime")
        await self._starting[loop].wait()
        running = self._running.get(loop)
        if running is None:
            raise GatewayError(Kind.NOT_READY, "The backends could not be started")
        return running.directory

    async def _run(self, loop: Any) -> None:
        # Owned by the loop itself: nothing but cancellation may leave, or trio ends the whole run.
        try:
            async with self.running():
                self._starting[loop].set()
                await anyio.sleep_forever()
        except Exception:
            logger.exception("the runtime failed")
        finally:
            self._starting.pop(loop).set()
            self._held.pop(loop, None)


def _this_loop() -> Any:
    loop = native_loop()
    return anyio.lowlevel.current_token().native_token if loop is None else loop
