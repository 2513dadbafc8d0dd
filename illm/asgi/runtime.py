"""What keeps the actors running: one directory and one task group for each event loop that uses the application.

Three ways to start, in order: the ASGI lifespan; `async with gateway.running()` in the lifespan of a host that mounts
the application (Starlette forwards none); last, the first request starts it once and says so.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import anyio
import anyio.lowlevel

from illm.actors.directory import Directory
from illm.loop.tasks import hold
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.runtime")


class Runtime:
    """The actors of one application, by event loop.

    Args:
        make_directory: builds the directory of one loop.
    """

    def __init__(self, make_directory: Callable[[], Directory]) -> None:
        self._make_directory = make_directory
        self._directories: dict[Any, Directory] = {}
        self._starting: dict[Any, anyio.Event] = {}
        self._held: dict[Any, object] = {}
        self._over: WeakSet[Any] = WeakSet()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Directory]:
        """Run the actors while the block lasts; within another such block of the same loop, share its actors."""
        loop = anyio.lowlevel.current_token().native_token
        if loop in self._directories:
            yield self._directories[loop]
            return
        directory = self._make_directory()
        self._over.discard(loop)
        async with anyio.create_task_group() as tasks:
            directory.open(tasks)
            self._directories[loop] = directory
            try:
                yield directory
            finally:
                del self._directories[loop]
                self._over.add(loop)
                directory.close()
                tasks.cancel_scope.cancel()

    async def directory(self) -> Directory:
        """Return this loop's directory, starting it where nobody has.

        Raises:
            GatewayError: `SHUTTING_DOWN` after the end of `running`, `NOT_READY` where starting failed.
        """
        loop = anyio.lowlevel.current_token().native_token
        directory = self._directories.get(loop)
        return directory or await self._adopt(loop)

    def drain(self) -> None:
        """Take no more requests in this loop; servers in other loops may go on."""
        directory = self._directories.get(anyio.lowlevel.current_token().native_token)
        if directory is not None:
            directory.drain()

    async def _adopt(self, loop: Any) -> Directory:
        if loop in self._over:  # a late request must not load a model again
            raise GatewayError(Kind.SHUTTING_DOWN, "The gateway is shutting down")
        if loop not in self._starting:
            logger.warning("started by the first request: no lifespan reached the application (see docs/architecture)")
            self._starting[loop] = anyio.Event()
            self._held[loop] = hold(lambda: self._run(loop), "illm:runtime")
        await self._starting[loop].wait()
        directory = self._directories.get(loop)
        if directory is None:
            raise GatewayError(Kind.NOT_READY, "The backends could not be started")
        return directory

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
