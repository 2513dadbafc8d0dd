"""One request on its way through an actor, and the reply that comes back.

Rules:
* Whoever takes a `Call` closes its reply, whatever happens.  Closed without `Done` or `Failed` = the backend died.
* Leaving never waits and never fails: it marks the call, and tells the actor through `on_leave`.
* The reply is one slot that merges what has not been read yet.  A producer that must not wait (the engine's thread
  serves everybody) uses `put_nowait`; one that should feel a slow reader waits in `put`, or, where it has no task to
  wait in (a socket's callback), stops when the reply is `full` and goes on from `on_room`.

Not a memory channel: an item through one costs 7 to 29 µs, a slot under 1 µs, and a slow reader of an engine's output
must find one merged delta, not a backlog.
"""

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

import anyio

from illm.core.events import Delta, Event, Failed, Reasoning, ToolDelta
from illm.core.requests import Request
from illm.errors import GatewayError
from illm.loop.wake import Wake


class Reply:
    """Events from one producer to one reader, in batches.

    Args:
        bound: how many unread events make it full, counted before they merge: merged text takes memory too.

    Attributes:
        unread: how many events wait for the reader, counted as above.
        closed, left: whether the producer has said everything, and whether the reader has gone.
        on_room: called once, synchronously, when events are taken or the reply ends.
    """

    __slots__ = ("_bound", "_events", "_readable", "closed", "left", "on_room", "unread")

    def __init__(self, bound: int = 64) -> None:
        self._bound = bound
        self._events: list[Event] = []
        self.unread = 0
        self._readable: Wake | None = None
        """Who waits for events, while somebody does."""
        self.on_room: Callable[[], None] | None = None
        self.closed = False
        self.left = False

    @property
    def full(self) -> bool:
        """Whether a producer that can should stop until `on_room`."""
        return self.unread >= self._bound and not (self.left or self.closed)

    def put_nowait(self, *events: Event) -> None:
        """Add events without waiting; a piece of text joins the unread one before it if both go on with the same.

        Raises:
            anyio.BrokenResourceError: the reader has left; what it would have read concerns nobody.
            anyio.ClosedResourceError: the reply is closed.
        """
        if self.left:
            raise anyio.BrokenResourceError
        if self.closed:
            raise anyio.ClosedResourceError
        self._add(events)
        if self._readable is not None:
            self._readable.set()

    async def put(self, *events: Event) -> None:
        """Add events once fewer than `bound` are unread.  Raises as `put_nowait`."""
        while self.full:
            room = Wake()
            self.on_room = room.set
            await room.wait()
        self.put_nowait(*events)

    def close(self, *events: Event) -> None:
        """Add the last events, unless the reader has left, and say that nothing follows.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        if events and not self.left:
            self._add(events)
        if self._readable is not None:
            self._readable.set()
        if self.on_room is not None:
            self._make_room()

    def leave(self) -> None:
        """The reader goes: wake both sides, forget what is unread.  Idempotent."""
        self.left = True
        self._events, self.unread = [], 0
        if self._readable is not None:
            self._readable.set()
        if self.on_room is not None:
            self._make_room()

    def take_nowait(self) -> list[Event]:
        """Return all the events there are, perhaps none.  Raises as `take`."""
        events = self._events
        if events:
            self._events, self.unread = [], 0
            if self.on_room is not None:
                self._make_room()
        elif self.left:
            raise anyio.BrokenResourceError
        elif self.closed:
            raise anyio.EndOfStream
        return events

    def wake(self, readable: Wake) -> None:
        """Have this woken once `take_nowait` may have more to say; the one given last counts."""
        self._readable = readable

    async def take(self) -> list[Event]:
        """Wait for events and return all there are.

        Raises:
            anyio.EndOfStream: closed and read to the end.
            anyio.BrokenResourceError: this side has left.
        """
        while not (events := self.take_nowait()):
            if self._readable is None:
                self._readable = Wake()
            await self._readable.wait()
        return events

    def _add(self, events: tuple[Event, ...]) -> None:
        self.unread += len(events)
        pending = self._events
        for event in events:
            if type(event) is Delta and pending:
                last = pending[-1]
                if type(last) is Delta and last.index == event.index:
                    pending[-1] = Delta(
                        event.index, last.text + event.text, last.tokens + event.tokens, last.logprobs + event.logprobs
                    )
                    continue
            elif pending and (merged := _merged(pending[-1], event)) is not None:
                pending[-1] = merged
                continue
            pending.append(event)

    def _make_room(self) -> None:
        on_room, self.on_room = self.on_room, None
        if on_room is not None:
            on_room()


def _merged(last: Event, event: Event) -> Event | None:
    """Return both in one: pieces of one choice's reasoning, or of one tool call after its beginning; else None."""
    if type(event) is Reasoning and type(last) is Reasoning and last.index == event.index:
        return Reasoning(event.index, last.text + event.text)
    if (
        type(event) is ToolDelta
        and type(last) is ToolDelta
        and (last.index, last.call) == (event.index, event.call)
        and event.id is None
        and event.name is None
    ):
        return ToolDelta(last.index, last.call, last.arguments + event.arguments, last.id, last.name)
    return None


class Owner(Protocol):
    """Who must know when a call ends: the mailbox it came through."""

    def withdrawn(self, call: "Call") -> None:
        """The caller left before anybody took the call."""

    def finished(self, call: "Call") -> None:
        """Whoever took the call has answered it."""


class Call:
    """One request, where to answer it, and how to stop it.  A context manager: leaving the block leaves the call.

    Attributes:
        on_leave: set by the actor that took the call; called once, synchronously, when the caller goes early.
        queued_at, taken_at: `time.monotonic()` seconds; `taken_at` is None while it waits in the mailbox.
        seen_at: when whoever keeps the deadlines first saw it, on the loop's clock.
        watched: whoever answers it keeps all its deadlines, so that the caller need not: within connecting and
            waiting for the first byte it begins to be answered or has failed, and has ended within the whole.
    """

    __slots__ = ("_owner", "on_leave", "queued_at", "reply", "request", "seen_at", "taken_at", "watched")

    def __init__(self, request: Request, owner: Owner, *, watched: bool = False) -> None:
        self.request = request
        self.reply = Reply()
        self.queued_at = monotonic()
        self.taken_at: float | None = None
        self.seen_at: float | None = None
        self.on_leave: Callable[[], None] | None = None
        self.watched = watched
        self._owner = owner

    @property
    def left(self) -> bool:
        """Whether the caller has gone."""
        return self.reply.left

    def leave(self) -> None:
        """The caller goes: whatever state the request is in, its work stops.  Idempotent, never waits."""
        reply = self.reply
        if reply.left:
            return
        reply.leave()
        if self.taken_at is None:
            self._owner.withdrawn(self)
        elif self.on_leave is not None and not reply.closed:
            self.on_leave()

    def finish(self, *events: Event) -> None:
        """Answer with the last events and close.  Idempotent; a caller who has left is no error here."""
        reply = self.reply
        if not reply.closed:
            reply.close(*events)
            self._owner.finished(self)

    def fail(self, error: GatewayError) -> None:
        """Answer with a failure and close."""
        self.finish(Failed(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.reply.left:
            self.leave()


def unraised(error: GatewayError) -> GatewayError:
    """Return an equal error that has not been raised yet.

    Who refuses many callers for one reason gives each its own: an instance raised twice keeps the tracebacks of both,
    and with them every frame and request they passed through.
    """
    return GatewayError(error.kind, error.message, param=error.param, retry_after=error.retry_after)
