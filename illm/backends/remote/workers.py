"""The connection worker: a long-lived task that owns one upstream connection and answers one request at a time.

* Its cancel scope lasts as long as it does.  Leaving a request early must close the connection anyway, so it ends the
  worker; the next request finds another or starts one.  No scope and no timer is made for a request.
* The message's end decides, not what is in it: `Done` goes out when the framing says so, and only then, if all was
  read, is the connection kept.
* A request is sent again once, if the connection had been used before and not one byte came back: the server closed
  it while the request was on its way.
* Whoever holds a call answers it: in `run`'s last words, too, when the task is cancelled from anywhere.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from illm.actors.call import Call
from illm.backends.remote.connection import Connection, UnreachableError, connect
from illm.backends.remote.deadlines import Deadline, Phase, late
from illm.core.events import Done, Event, Failed
from illm.core.requests import Request
from illm.errors import GatewayError, Kind
from illm.http11.client_response import Malformed, ResponseParser
from illm.http11.events import Body, End

if TYPE_CHECKING:
    from illm.backends.remote.pool import Pool

logger = logging.getLogger("illm.remote")

REPLACEABLE = frozenset(
    (Kind.UNREACHABLE, Kind.UPSTREAM, Kind.OVERLOADED, Kind.NOT_READY, Kind.BACKEND_DIED, Kind.SHUTTING_DOWN)
)
"""What another replica may do better.  Not a passed deadline: the client has waited once."""

_PLAIN = (b"", b"identity")
_LAST = (Done, Failed)
_BROKE_OFF = "broke off in the middle of its answer"


class Job:
    """One call on its way through the workers.

    Args:
        call: whom to answer.
        request: what to ask; the call's, perhaps with the model filled in.

    Attributes:
        begun: the client may have seen something: no other replica can take over.
        moved: another replica has been tried.
    """

    __slots__ = ("begun", "call", "moved", "request")

    def __init__(self, call: Call, request: Request) -> None:
        self.call = call
        self.request = request
        self.begun = self.moved = False


class _UnansweredError(Exception):
    """The connection ended before the first byte of an answer."""


class Worker:
    """See the module.

    Args:
        pool: the workers of the same server.
        job: its first.
    """

    __slots__ = ("_connection", "_deadline", "_job", "_late", "_pool", "_scope", "_wake")

    def __init__(self, pool: "Pool", job: Job) -> None:
        self._pool = pool
        self._job: Job | None = job
        self._scope = anyio.CancelScope()
        self._connection: Connection | None = None
        self._deadline = Deadline()
        self._late: Phase | None = None
        self._wake = anyio.Event()

    @property
    def connected(self) -> bool:
        """Whether it has a connection."""
        return self._connection is not None

    def hand(self, job: Job) -> None:
        """Give a resting worker its next job."""
        self._job = job
        self._wake.set()

    def check(self, now: float) -> None:
        """Act on a deadline that has passed."""
        phase = self._deadline.passed(now, self._pool.timeouts)
        if phase is Phase.REST:
            if self._pool.retire(self):
                self._wake.set()
        elif phase is not None:
            self._late = phase
            self._scope.cancel()

    async def run(self) -> None:
        """Answer jobs until there has been none for a while, or one was cut short."""
        pool = self._pool
        try:
            with self._scope:
                try:
                    while self._job is not None:
                        await self._serve(self._job)
                        if self._scope.cancel_called:
                            break
                        self._job = pool.next_job()
                        if self._job is None and self._connection is not None:
                            await self._rest()
                finally:
                    await self._close()
        finally:
            pool.gone(self)
            self._last_words()
        pool.refill()

    async def _rest(self) -> None:
        self._wake = anyio.Event()
        self._deadline.begin(Phase.REST)
        self._pool.idle.append(self)
        await self._wake.wait()

    def _last_words(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        job.call.on_leave = None
        if self._late is None or job.call.left:
            job.call.finish()
            return
        if self._late is Phase.CONNECT:
            self._pool.health.refused("no connection in time")
        error = late(self._late, self._pool.server.framework)
        logger.warning("%s: gave up waiting for %s", self._pool.server, self._late.value)
        self._settle(job, error)

    async def _serve(self, job: Job) -> None:
        call = job.call
        if call.left:
            call.finish()
            self._job = None
            return
        self._deadline.begin(Phase.CONNECT)
        call.on_leave = self._scope.cancel
        error: GatewayError | None
        try:
            error = await self._exchange(job)
        except GatewayError as failure:
            error = failure
        except anyio.BrokenResourceError:  # from the reply: the client has left
            await self._close()
            error = None
        except Exception as failure:  # this request only; neighbours must not feel it
            logger.exception("%s: a request failed on our side", self._pool.server)
            await self._close()
            error = GatewayError(Kind.INTERNAL, "The backend failed on this request")
            error.__cause__ = failure
        call.on_leave = None
        self._job = None
        if error is not None:
            self._settle(job, error)
        else:
            call.finish()

    def _settle(self, job: Job, error: GatewayError) -> None:
        if not job.begun and error.kind in REPLACEABLE and self._pool.replace(job):
            return
        job.call.fail(self._pool.server.hide_in(error))

    async def _exchange(self, job: Job) -> GatewayError | None:
        outgoing = self._pool.dialect.outgoing(job.request)
        wire = self._pool.server.encode(outgoing)
        while True:
            connection, reused = await self._ready()
            try:
                return await self._converse(job, connection, wire, outgoing.method)
            except _UnansweredError:
                await self._close()
                if not reused:
                    raise self._error(Kind.UPSTREAM, "closed the connection without an answer") from None

    async def _ready(self) -> tuple[Connection, bool]:
        connection = self._connection
        if connection is not None and connection.stale:
            await self._close()
            connection = None
        if connection is not None:
            return connection, True
        self._deadline.enter(Phase.CONNECT)
        try:
            self._connection = await connect(self._pool.server)
        except UnreachableError as error:
            if error.ours:
                logger.error("%s: %s on this machine", self._pool.server, error.__cause__)
                raise GatewayError(Kind.OVERLOADED, "The gateway cannot open more connections now") from error
            self._pool.health.refused(error.reason)
            raise self._error(Kind.UNREACHABLE, "cannot be reached") from error
        return self._connection, False

    async def _converse(self, job: Job, connection: Connection, wire: bytes, method: str) -> GatewayError | None:
        parser, decoder = ResponseParser(method), self._pool.dialect.decoder(job.request)
        self._deadline.enter(Phase.FIRST_BYTE)
        # A server may refuse a large body before it has read it: its answer is looked for even where writing failed.
        await connection.send(wire)
        answering = False  # vLLM sends the head at once and the first token whenever there is one
        while True:
            data = await connection.receive()
            if not data and not parser.begun:
                raise _UnansweredError
            if data:
                self._pool.health.heard()
            if answering:
                self._deadline.enter(Phase.BYTES)
            for step in parser.feed(data) if data else parser.eof(broken=data is None):
                if isinstance(step, Body):
                    if not answering:
                        answering = True
                        self._deadline.enter(Phase.BYTES)
                    events = decoder.feed(step.data)
                    if events and type(events[-1]) in _LAST:  # whatever the server may still have to say
                        await self._keep_only(parser.reusable)
                        return await self._conclude(job, events)
                    if events:
                        await self._deliver(job, events)
                elif isinstance(step, End):
                    await self._keep_only(parser.reusable)
                    return await self._conclude(job, decoder.close())
                elif isinstance(step, Malformed):
                    logger.warning("%s: %s", self._pool.server, step.reason)
                    await self._close()
                    return self._error(Kind.UPSTREAM, _BROKE_OFF if not data else "sent what is not valid HTTP")
                else:
                    if step.headers.get(b"content-encoding", b"") not in _PLAIN:
                        await self._close()
                        return self._error(Kind.UPSTREAM, "answered in an encoding that nobody asked for")
                    decoder.start(step.status, step.headers)

    async def _deliver(self, job: Job, events: Sequence[Event]) -> None:
        job.begun = True
        self._deadline.enter(Phase.CLIENT)
        await job.call.reply.put(*events)
        self._deadline.enter(Phase.BYTES)

    async def _conclude(self, job: Job, events: Sequence[Event]) -> GatewayError | None:
        last = events[-1] if events else None
        if isinstance(last, Done):
            job.call.finish(*events)
            return None
        if isinstance(last, Failed):
            if len(events) > 1:
                await self._deliver(job, events[:-1])
            return last.error
        return self._error(Kind.UPSTREAM, _BROKE_OFF)

    async def _keep_only(self, reusable: bool) -> None:
        if not reusable:
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _error(self, kind: Kind, what: str) -> GatewayError:
        return GatewayError(kind, f"The backend {self._pool.server.framework!r} {what}")
