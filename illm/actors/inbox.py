"""An actor's mailbox: a memory channel with admission in front.

Bounded by the calls that still matter: one that left while it waited does not count, and is swept out when such dead
weight outgrows the living.  Everything here is synchronous but the waiting itself, so no lock is needed.
"""

import math
from collections.abc import Callable
from time import monotonic

import anyio

from illm.actors.call import Call
from illm.core.requests import Request
from illm.errors import GatewayError, Kind


class Inbox:
    """Where calls wait for their actor.

    Args:
        limit: how many waiting calls are admitted; one more is refused with 429.

    Attributes:
        direct: set by an actor that can give a call to someone who works on it without a task in between; asked first,
            it must not wait, and says whether it has taken the call.
        down: set by an actor that cannot reach what it stands for: what everybody is told meanwhile.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        self.active: set[Call] = set()
        self.direct: Callable[[Call], bool] | None = None
        self.down: GatewayError | None = None
        self._gone = 0
        self._send, self._receive = anyio.create_memory_object_stream[Call](math.inf)

    def admit(self, request: Request) -> Call:
        """Hand a request over directly, or queue it.

        Raises:
            GatewayError: `OVERLOADED`, when `limit` calls wait already.
        """
        call = Call(request, self)
        if self.direct is not None and not self.waiting and self.direct(call):
            call.taken_at = call.queued_at
            self.active.add(call)
            return call
        if self.waiting >= self.limit:
            raise GatewayError(Kind.OVERLOADED, f"The backend is overloaded: {self.waiting} requests are waiting")
        self.waiting += 1
        self._send.send_nowait(call)
        return call

    async def take(self) -> Call:
        """Wait for the next call whose caller is still there."""
        while True:
            call = await self._receive.receive()
            if self._hand_over(call):
                return call

    def take_nowait(self) -> Call | None:
        """Return the next call whose caller is still there, or None."""
        while True:
            try:
                call = self._receive.receive_nowait()
            except anyio.WouldBlock:
                return None
            if self._hand_over(call):
                return call

    def refuse(self, error: GatewayError) -> None:
        """Answer everyone who waits with `error`."""
        while (call := self.take_nowait()) is not None:
            call.fail(error)

    def abandon(self) -> None:
        """Hang up on every call that a dead actor took and never answered."""
        for call in tuple(self.active):
            call.finish()

    def close(self, error: GatewayError) -> None:
        """Answer everyone who waits, and take no more."""
        self.refuse(error)
        self._send.close()
        self._receive.close()

    def _hand_over(self, call: Call) -> bool:
        if call.left:
            self._gone -= 1
            return False
        self.waiting -= 1
        call.taken_at = monotonic()
        self.active.add(call)
        return True

    def finished(self, call: Call) -> None:
        """See `Owner`."""
        self.active.discard(call)

    def withdrawn(self, call: Call) -> None:
        """See `Owner`."""
        self.waiting -= 1
        self._gone += 1
        if self._gone > self.limit:
            self._sweep()

    def _sweep(self) -> None:
        alive: list[Call] = []
        while True:
            try:
                call = self._receive.receive_nowait()
            except anyio.WouldBlock:
                break
            if call.left:
                self._gone -= 1
            else:
                alive.append(call)
        for call in alive:
            self._send.send_nowait(call)
