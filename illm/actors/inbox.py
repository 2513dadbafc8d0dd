"""An actor's mailbox: admission in front, a line behind it.

Bounded by the calls that still matter: one that left while it waited is gone at once.  That, and that nothing is ever
in the hands of a receiver that may be cancelled, is why this is a dict in order of arrival and an event, and not a
memory channel.  Everything here is synchronous but the waiting itself, so no lock is needed.
"""

from collections.abc import Callable
from time import monotonic

import anyio
import anyio.lowlevel

from illm.actors.call import Call, unraised
from illm.core.requests import Request
from illm.errors import GatewayError, Kind


class Inbox:
    """Where calls wait for their actor.

    Args:
        limit: how many waiting calls are admitted; one more is refused with 429.

    Attributes:
        active: calls that were taken and not yet answered.
        closed: what everyone is told from now on, once it is closed.
        direct: set by an actor that can give a call to someone who works on it without a task in between; asked first,
            it must not wait, and says whether it has taken the call.
        down: set by an actor that cannot reach what it stands for: what everybody is told meanwhile.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active: set[Call] = set()
        self.closed: GatewayError | None = None
        self.direct: Callable[[Call], bool] | None = None
        self.down: GatewayError | None = None
        self._waiting: dict[Call, None] = {}
        self._filled: anyio.Event | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def admit(self, request: Request) -> Call:
        """Hand a request over directly, or queue it.

        Raises:
            GatewayError: `OVERLOADED`, when `limit` calls wait already; what `close` was given, afterwards.
        """
        if self.closed is not None:
            raise unraised(self.closed)
        call = Call(request, self)
        if self.direct is not None and not self._waiting and self.direct(call):
            call.taken_at = call.queued_at
            self.active.add(call)
            return call
        if self.waiting >= self.limit:
            raise GatewayError(Kind.OVERLOADED, f"The backend is overloaded: {self.waiting} requests are waiting")
        self._waiting[call] = None
        if self._filled is not None:
            self._filled.set()
            self._filled = None
        return call

    async def take(self) -> Call:
        """Wait for the next call, in order of arrival.  Always a checkpoint; cancelled, it has taken nothing."""
        await anyio.lowlevel.checkpoint()
        while (call := self.take_nowait()) is None:
            if self._filled is None:
                self._filled = anyio.Event()
            await self._filled.wait()
        return call

    def take_nowait(self) -> Call | None:
        """Return the next call, or None where nobody waits."""
        call = next(iter(self._waiting), None)
        if call is not None:
            del self._waiting[call]
            call.taken_at = monotonic()
            self.active.add(call)
        return call

    def refuse(self, error: GatewayError) -> None:
        """Answer everyone who waits with `error`."""
        while (call := self.take_nowait()) is not None:
            call.fail(unraised(error))

    def abandon(self) -> None:
        """Hang up on every call that a dead actor took and never answered."""
        for call in tuple(self.active):
            call.finish()

    def close(self, error: GatewayError) -> None:
        """Answer everyone with `error`, those whose work runs too, and take no more.  Idempotent: the first counts."""
        if self.closed is None:
            self.closed = error
        self.refuse(error)
        for call in tuple(self.active):
            call.fail(unraised(error))

    def finished(self, call: Call) -> None:
        """See `Owner`."""
        self.active.discard(call)

    def withdrawn(self, call: Call) -> None:
        """See `Owner`."""
        del self._waiting[call]
