"""A condition without a lock: wait until something changed, then look again."""

import anyio


class Wake:
    """Wakes everyone who waits, and forgets: who comes later waits for the next change.

    The event is made only when somebody waits.  One loop, no threads.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake all waiters."""
        if self._event is not None:
            event, self._event = self._event, None
            event.set()

    async def wait(self) -> None:
        """Wait for the next `set`.  Between looking and waiting there must be no other `await`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
