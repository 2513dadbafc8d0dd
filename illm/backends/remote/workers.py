"""The connection worker: it owns one upstream connection and answers one request at a time.

A state machine that is called, not a task: a request is written where it is handed over, and what comes back is read,
understood and put into the reply where it arrives.  Only the client's task is woken.  A task exists while connecting.

* One connection a worker, and one worker a connection: whatever ends the one ends the other, so nothing that an old
  connection still says can be taken for a new one's.
* The message's end decides, not what is in it: `Done` goes out when the framing says so, and only then, if all was
  read, is the connection kept.
* A request is sent again once, if the connection had been used before and not one byte came back: the server closed
  it while the request was on its way.
* Leaving a request early closes the connection at once, in whatever state it is.
* Whoever holds a call answers it; `close` is for the actor that ends.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from illm.backends.remote.connection import UnreachableError, connect, speaking
from illm.backends.remote.deadlines import Deadline, Phase, late
from illm.backends.remote.job import Job, blunder
from illm.core.events import Done, Event, Failed
from illm.errors import GatewayError, Kind
from illm.http11.client_response import ResponseParser
from illm.loop.wire import Wire

if TYPE_CHECKING:
    from illm.backends.remote.pool import Pool

logger = logging.getLogger("illm.remote")

UNREAD_BYTES = 256 * 1024
"""How much of a body may wait for its client, beside the bound that a reply has: one event may be a whole read."""

_PLAIN = (b"", b"identity")
_BROKE_OFF = "broke off in the middle of its answer"
_NO_HTTP = "sent what is not valid HTTP"
_NO_ANSWER = "closed the connection without an answer"


class Worker:
    """See the module.  A `Receiver`.

    Args:
        pool: the workers of the same server.
    """

    __slots__ = (
        "_answering", "_connecting", "_deadline", "_early", "_early_end", "_headless", "_job", "_over", "_parser",
        "_paused", "_pool", "_reused", "_speaking", "_unread", "_wire",
    )  # fmt: skip

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._job: Job | None = None
        self._wire: Wire | None = None
        self._speaking: Callable[[], bool] = bool
        self._connecting: anyio.CancelScope | None = None
        self._parser = ResponseParser()
        self._deadline = Deadline()
        self._over = self._reused = self._paused = self._answering = False
        self._headless = True
        self._unread = 0
        """Bytes of the body whose events nobody has taken yet."""
        # What a server said before it was asked anything: it counts as its answer, if it is one.
        self._early = b""
        self._early_end: bool | None = None

    @property
    def connected(self) -> bool:
        """Whether it has a connection."""
        return self._wire is not None

    def open(self, job: Job, tasks: TaskGroup, name: str) -> None:
        """Begin with a job that wants a connection."""
        self._job = job
        job.call.on_leave = self._leave
        self._deadline.begin(Phase.CONNECT, job.since)
        self._connecting = anyio.CancelScope()
        tasks.start_soon(self._connect, self._connecting, name=name)

    def hand(self, job: Job) -> bool:
        """Send a job's request now, on a resting connection.  False: it cannot be used any more, and is closed."""
        if self._speaking():
            self._close()
            return False
        self._reused = True
        self._job = job
        job.call.on_leave = self._leave
        self._ask(job, job.since)
        return True

    def check(self, now: float) -> None:
        """Act on a deadline that has passed."""
        phase = self._deadline.passed(now, self._pool.timeouts)
        if phase is None:
            return
        job = self._job
        if job is None:
            self._close()
            return
        if phase is Phase.CONNECT:
            self._pool.health.refused("no connection in time")
        logger.warning("%s: gave up waiting for %s", self._pool.server, phase.value)
        self._fail(job, late(phase, self._pool.server.framework))

    def close(self) -> None:
        """The actor ends: hang up on the server, and on whom it answered."""
        job, self._job = self._job, None
        self._close()
        if job is not None:
            job.call.on_leave = None
            job.call.finish()

    # What the wire calls

    def received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        job = self._job
        if job is None:
            if not self._over:  # nobody asked for it
                self._close()
                self._pool.refill()
            return
        if self._wire is None:
            self._early += data
            return
        self._pool.health.heard()
        try:
            self._read(job, data)
        except Exception as error:  # this request only; neighbours must not feel it
            self._blunder(job, error)

    def ended(self, broken: bool) -> None:
        """Nothing more will come."""
        job, parser = self._job, self._parser
        if job is None:
            if not self._over:
                self._close()
                self._pool.refill()
        elif self._wire is None:
            self._early_end = broken
        elif not parser.begun:
            self._unanswered(job)
        else:
            parser.eof(broken=broken)
            try:
                if parser.fault is not None:
                    self._misread(job, _BROKE_OFF)
                elif parser.over:
                    self._conclude(job, job.decoder.close())
            except Exception as error:
                self._blunder(job, error)

    def drained(self) -> None:
        """A request is complete before it is written: nothing waits for room."""

    def closed(self) -> None:
        """`ended` has said it."""

    # Connecting and asking

    async def _connect(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                wire = await connect(self._pool.server, self)
                if self._over:  # given up just as it came about
                    wire.abort()
                    return
                self._wire = wire
                self._speaking = speaking(wire)
        except UnreachableError as error:
            if self._job is not None:
                self._fail(self._job, self._unreachable(error))
            return
        except Exception as error:
            if self._job is not None:
                self._blunder(self._job, error)
            return
        job = self._job
        if job is None or self._wire is None:
            return
        self._ask(job, self._deadline.since)
        early, end, self._early, self._early_end = self._early, self._early_end, b"", None
        if early:
            self.received(early)
        if end is not None and not self._over:
            self.ended(end)

    def _unreachable(self, error: UnreachableError) -> GatewayError:
        if error.ours:
            logger.error("%s: %s on this machine", self._pool.server, error.__cause__)
            return GatewayError(Kind.OVERLOADED, "The gateway cannot open more connections now")
        self._pool.health.refused(error.reason)
        return self._error(Kind.UNREACHABLE, "cannot be reached")

    def _ask(self, job: Job, since: float | None) -> None:
        self._parser.restart(job.method)
        self._headless = True
        self._answering = False
        self._deadline.begin(Phase.FIRST_BYTE, since)
        # A server may refuse a large body before it has read it: its answer is looked for even where writing failed.
        for piece in job.pieces:
            self._wire.write(piece)  # type: ignore[union-attr]  # only asked with one

    def _unanswered(self, job: Job) -> None:
        if not self._reused:
            self._fail(job, self._error(Kind.UPSTREAM, _NO_ANSWER))
            return
        self._job = None
        job.since = self._deadline.since
        self._close()
        self._pool.open(job)

    # Reading

    def _read(self, job: Job, data: bytes) -> None:
        parser, decoder = self._parser, job.decoder
        body = parser.feed(data)
        if self._headless and parser.head is not None:
            head = parser.head
            self._headless = False
            if head.headers.get(b"content-encoding", b"") not in _PLAIN:
                self._fail(job, self._error(Kind.UPSTREAM, "answered in an encoding that nobody asked for"))
                return
            decoder.start(head.status, head.headers)
        if body:
            self._answering = True  # vLLM sends the head at once and the first token whenever there is one
            events = decoder.feed(body)
            if events:
                last = type(events[-1])
                if last is Done or last is Failed:  # whatever the server may still have to say
                    self._conclude(job, events)
                    return
                if parser.over and parser.fault is None:
                    self._conclude(job, [*events, *decoder.close()])
                    return
                self._deliver(job, events, len(body))
        if parser.over:
            if parser.fault is None:
                self._conclude(job, decoder.close())
            else:
                self._misread(job, _NO_HTTP)
        elif self._answering and not self._paused and not self._over:
            self._deadline.enter(Phase.BYTES)

    def _deliver(self, job: Job, events: Sequence[Event], size: int) -> None:
        reply = job.call.reply
        if reply.closed:  # by another: the gateway shuts down
            self._leave()
            return
        job.begun = True
        self._unread = self._unread + size if reply.unread else size
        reply.put_nowait(*events)
        if (reply.full or self._unread > UNREAD_BYTES) and not self._paused:
            self._paused = True
            self._wire.pause()  # type: ignore[union-attr]  # it has just been read from
            self._deadline.enter(Phase.CLIENT)
            reply.on_room = self._read_on

    def _read_on(self) -> None:
        self._paused = False
        if self._wire is not None:
            self._wire.resume()
            self._deadline.enter(Phase.BYTES)

    def _conclude(self, job: Job, events: Sequence[Event]) -> None:
        """Answer with the last events; `Done` or `Failed` is the last of them, if all is well."""
        last = events[-1] if events else None
        if type(last) is Done:
            self._let_go(job)
            job.call.finish(*events)
        else:
            self._let_go(job)
            if len(events) > 1 and not job.call.reply.closed:
                job.begun = True
                job.call.reply.put_nowait(*events[:-1])
            error = last.error if isinstance(last, Failed) else self._error(Kind.UPSTREAM, _BROKE_OFF)
            self._pool.settle(job, error)
        # A server that answers before it has read all may never read on: the next request would wait behind the rest.
        if self._parser.reusable and self._wire is not None and not self._wire.unsent:
            self._go_on()
        else:
            self._close()
            self._pool.refill()

    # Ending

    def _go_on(self) -> None:
        if not self._pool.find_work(self):
            self._deadline.begin(Phase.REST)
            self._pool.idle.append(self)

    def _let_go(self, job: Job) -> None:
        self._job = None
        job.call.on_leave = None
        job.since = self._deadline.since

    def _leave(self) -> None:
        job = self._job
        if job is not None:
            self._let_go(job)
            self._close()
            job.call.finish()
            self._pool.refill()

    def _fail(self, job: Job, error: GatewayError) -> None:
        self._let_go(job)
        self._close()
        self._pool.settle(job, error)
        self._pool.refill()

    def _misread(self, job: Job, what: str) -> None:
        logger.warning("%s: %s", self._pool.server, self._parser.fault)
        self._fail(job, self._error(Kind.UPSTREAM, what))

    def _blunder(self, job: Job, error: Exception) -> None:
        logger.error("%s: a request failed on our side", self._pool.server, exc_info=error)
        if self._job is job:
            self._fail(job, blunder(error))
        else:  # it has its answer: the fault is in what came after
            self.close()
            self._pool.refill()

    def _close(self) -> None:
        """Close the connection, without a TLS farewell: the server sees it go and stops its work."""
        if self._over:
            return
        self._over = True
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()
        elif self._connecting is not None:
            self._connecting.cancel()
        self._pool.gone(self)

    def _error(self, kind: Kind, what: str) -> GatewayError:
        return GatewayError(kind, f"The backend {self._pool.server.framework!r} {what}")
