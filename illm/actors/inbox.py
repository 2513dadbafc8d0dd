"""An actor's mailbox: a memory channel with admission in front.

The channel carries the calls; the ledger beside it says which of them still wait.  Only those count for admission: a
call that left is off the ledger at once, is skipped when its turn comes, and is swept out of the channel when such
dead weight outgrows the limit.  Everything here is synchronous but the waiting itself, so no lock is needed.
"""

import math
from collections.abc import Callable
from time import monotonic

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

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
            it must not wait, and says whether it has taken the call.  It may have answered it by then.
        watched: set by an actor that keeps its calls' deadlines, those of calls that wait here too (`overdue`).
        down: set by an actor that cannot reach what it stands for: what everybody is told meanwhile.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active: set[Call] = set()
        self.closed: GatewayError | None = None
        self.direct: Callable[[Call], bool] | None = None
        self.watched = False
        self.down: GatewayError | None = None
        self._waiting: set[Call] = set()
        # Made when first used: a mailbox that nobody ever wrote to has nothing that must be closed.
        self._channel: tuple[MemoryObjectSendStream[Call], MemoryObjectReceiveStream[Call]] | None = None

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
        call = Call(request, self, watched=self.watched)
        if self.direct is not None and not self._waiting:
            # First, since it may be answered before `direct` returns.
            call.taken_at = call.queued_at
            self.active.add(call)
            if self.direct(call):
                return call
            call.taken_at = None
            self.active.discard(call)
        if self.waiting >= self.limit:
            raise GatewayError(Kind.OVERLOADED, f"The backend is overloaded: {self.waiting} requests are waiting")
        self._waiting.add(call)
        self._halves()[0].send_nowait(call)
        return call

    async def take(self) -> Call:
        """Wait for the next call, in order of arrival.  Always a checkpoint; cancelled, it has taken nothing.

        On a closed mailbox it waits to be cancelled: the actor's owner closes, and ends it.
        """
        try:
            receive = self._halves()[1]
            while True:
                call = await receive.receive()
                if self._hand_over(call):
                    return call
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            await anyio.sleep_forever()
            raise AssertionError("slept for ever") from None

    def take_nowait(self) -> Call | None:
        """Return the next call, or None where nobody waits."""
        while self._waiting and self._channel is not None:
            call = self._channel[1].receive_nowait()
            if self._hand_over(call):
                return call
        return None

    def overdue(self, now: float, patience: float, error: GatewayError) -> None:
        """Answer with `error` those who have waited for `patience` seconds, as far as this has been asked before.

        Args:
            now: on the loop's clock.
            patience: in seconds.
            error: what they are told.
        """
        late = []
        for call in self._waiting:
            if call.seen_at is None:
                call.seen_at = now
            elif now >= call.seen_at + patience:
                late.append(call)
        for call in late:
            self.withdrawn(call)
            call.fail(unraised(error))

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
        if self._channel is not None:
            for half in self._channel:
                half.close()

    def finished(self, call: Call) -> None:
        """See `Owner`."""
        self.active.discard(call)

    def withdrawn(self, call: Call) -> None:
        """See `Owner`."""
        self._waiting.discard(call)
        if self._channel is not None and self.closed is None:
            receive = self._channel[1]
            if receive.statistics().current_buffer_used > self.limit + len(self._waiting):
                self._sweep(*self._channel)

    def __del__(self) -> None:
        # A mailbox dropped with its loop, or never served at all: nobody is left who could be waiting.
        for half in self._channel or ():
            half.close()

    def _halves(self) -> tuple[MemoryObjectSendStream[Call], MemoryObjectReceiveStream[Call]]:
        if self._channel is None:
            send, receive = anyio.create_memory_object_stream[Call](math.inf)
            self._channel = send, receive
        return self._channel

    def _hand_over(self, call: Call) -> bool:
        if call not in self._waiting:
            return False
        self._waiting.remove(call)
        call.taken_at = monotonic()
        self.active.add(call)
        return True

    def _sweep(self, send: MemoryObjectSendStream[Call], receive: MemoryObjectReceiveStream[Call]) -> None:
        """Leave only those in the channel who still wait, in their order."""
        for _ in range(receive.statistics().current_buffer_used):
            call = receive.receive_nowait()
            if call in self._waiting:
                send.send_nowait(call)
