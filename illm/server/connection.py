"""One connection: a task that runs its requests in order, and one that reads.

The reader never waits for the application except where a buffer is full, so the end of the stream is seen while a
request runs.  All state changes are synchronous; the two tasks meet only in `Wake`s.  Nobody here arms a timer: two
deadlines are plain numbers, which the server's one watchdog compares with the clock (`check`); what the passing of the
reader's means depends on its phase.  A stalled write is ended by closing the stream under it, so that no write needs a
scope of its own.
"""

import logging
import math
from contextlib import suppress

import anyio
from anyio.abc import ByteStream

from illm.http11 import Body, End, Event, Head, Refusal, Refused, RequestParser, ResponseEncoder
from illm.server.exchange import ClientDisconnected, Exchange
from illm.server.faults import fault_body, fault_headers, only_disconnects
from illm.server.scope import Ends, http_scope
from illm.server.service import Phase, Service, reset_on_close
from illm.server.wake import Wake

logger = logging.getLogger("illm.server")

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_LINGER = 2.0
"""Seconds a client may go on sending what nobody reads, so that it can read our last answer before a reset eats it."""


class Connection:
    """See the module.  `run` owns the stream and closes it.

    Args:
        stream: the client.
        ends: its addresses.
        service: what it shares with the others.
    """

    __slots__ = (
        "_ends",
        "_exchange",
        "_fault",
        "_over",
        "_parser",
        "_phase",
        "_read_deadline",
        "_room",
        "_rude",
        "_service",
        "_stream",
        "_unread",
        "_wake",
        "_write_deadline",
    )

    def __init__(self, stream: ByteStream, ends: Ends, service: Service) -> None:
        self._stream = stream
        self._ends = ends
        self._service = service
        self._parser = RequestParser(service.limits.message)
        self._exchange: Exchange | None = None
        self._fault: Refused | None = None
        self._over = False  # the stream ended, or may as well have
        self._rude = False  # end with a reset, as what was sent may look complete but is not
        self._unread = 0
        self._wake = Wake()  # for the task that runs the requests
        self._room = Wake()  # for the reader
        self._phase = Phase.IDLE
        self._read_deadline = service.now + service.limits.header_timeout
        self._write_deadline = math.inf

    async def run(self) -> None:
        """Serve until the client or we have had enough."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                await self._converse()
                tasks.cancel_scope.cancel()
        finally:
            self._exchange = None  # it knows us: a cycle that only the garbage collector would find
            if self._rude:
                reset_on_close(self._stream)
            await anyio.aclose_forcefully(self._stream)

    # What the server tells us

    def check(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now >= self._write_deadline:
            self._write_deadline = math.inf
            self._lose()
            reset_on_close(self._stream)
            self._service.tasks.start_soon(anyio.aclose_forcefully, self._stream)
        elif now >= self._read_deadline:
            self._read_deadline = math.inf
            if self._phase in (Phase.HEAD, Phase.REQUEST):
                self._refuse(Refused(408, "the request did not arrive in time"))
            else:
                self._rude = False
                self._lose()

    def drain(self) -> None:
        """Close if idle.  Otherwise the running request is the last one."""
        if self._phase is Phase.IDLE:
            self._rude = False
            self._lose()

    # What the exchange asks of us

    async def write(self, data: bytes) -> None:
        """See `Wire`."""
        service = self._service
        size = service.limits.write_bytes
        try:
            for piece in (data,) if len(data) <= size else [data[i : i + size] for i in range(0, len(data), size)]:
                self._write_deadline = service.now + service.limits.write_timeout
                await self._stream.send(piece)
        except _GONE as exc:
            self._lose()
            raise ClientDisconnected("the client has left") from exc
        finally:
            self._write_deadline = math.inf

    def await_body(self, waiting: bool) -> None:
        """See `Wire`.  Only then a pause is the client's: otherwise it may be us who do not read."""
        if self._phase is Phase.REQUEST:
            self._read_deadline = self._service.now + self._service.limits.body_timeout if waiting else math.inf

    def stays_open(self) -> bool:
        """See `Wire`."""
        exchange = self._exchange
        if self._service.draining or self._over or exchange is None:
            return False
        if exchange.body_ended:
            return True
        # A client that waits for our 100 Continue may send the body or not: nobody could tell what comes next.
        unread = self._parser.unread
        return not exchange.expects and (unread is None or unread <= self._service.limits.unread_body)

    def resume(self) -> None:
        """See `Wire`."""
        self._room.set()

    # The reader

    async def _read(self) -> None:
        try:
            while True:
                while self._full():
                    await self._room.wait()
                self._feed(await self._stream.receive())
        except _GONE:
            self._lose()

    def _full(self) -> bool:
        if self._exchange is None or self._phase is Phase.CLOSING:
            return False
        limits = self._service.limits
        return self._exchange.held >= limits.body_buffer or self._parser.buffered >= limits.pipeline_buffer

    def _feed(self, data: bytes) -> None:
        if self._phase is Phase.CLOSING:
            self._discard(len(data))
            return
        if events := self._parser.feed(data):
            self._take(events)
        elif self._phase is Phase.IDLE and self._parser.buffered:
            self._phase = Phase.HEAD
            self._read_deadline = self._service.now + self._service.limits.header_timeout
        if self._phase is Phase.REQUEST and self._read_deadline != math.inf:
            self._read_deadline = self._service.now + self._service.limits.body_timeout

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Head():
                    self._exchange = Exchange(event, self)
                    self._phase = Phase.REQUEST
                    self._read_deadline = math.inf
                case Body(data):
                    if self._phase is Phase.UNREAD:
                        self._discard(len(data))
                    elif self._exchange is not None:
                        self._exchange.push(data)
                case End():
                    if self._exchange is not None:
                        self._exchange.end_body()
                case Refused():
                    self._refuse(event)
        self._wake.set()

    def _discard(self, size: int) -> None:
        self._unread -= size
        if self._unread < 0:
            self._lose()

    def _refuse(self, fault: Refused) -> None:
        self._fault = fault
        if self._exchange is not None:
            self._exchange.lose()
        self._wake.set()

    def _lose(self) -> None:
        self._over = True
        if self._exchange is not None:
            self._exchange.lose()
        self._wake.set()

    # The requests

    async def _converse(self) -> None:
        stays = True
        while stays and not self._over:
            while self._exchange is None and self._fault is None and not self._over:
                await self._wake.wait()
            exchange = self._exchange
            if exchange is not None:
                stays = await self._serve(exchange) and await self._skip_unread(exchange)
                if stays:
                    self._next_request()
            elif self._fault is not None:
                await self._answer("GET", self._fault.status, self._fault.reason)
                stays = False
        if not self._over and not self._rude:
            await self._linger()

    def _next_request(self) -> None:
        self._exchange = None
        self._phase = Phase.IDLE
        self._rude = False
        if self._service.draining:
            self._lose()
            return
        limits = self._service.limits
        events = self._parser.next_request()
        if self._parser.buffered and not events:
            self._phase = Phase.HEAD
        self._read_deadline = self._service.now + (
            limits.header_timeout if self._parser.buffered else limits.keep_alive
        )
        if events:
            self._take(events)
        self._room.set()

    async def _serve(self, exchange: Exchange) -> bool:
        """Run one request; return whether the connection may go on."""
        service = self._service
        self._rude = True
        crashed = False
        try:
            scope = http_scope(
                exchange.head, self._ends, state=service.state, register=exchange.register, root_path=service.root_path
            )
            await service.app(scope, exchange.receive, exchange.send)
        except Refusal as refusal:
            self._refuse(Refused(refusal.status, refusal.reason))
        except Exception as exc:
            crashed = True
            if not (exchange.gone and only_disconnects(exc)):
                logger.exception("the application failed on %s %s", exchange.head.method, exchange.head.target.decode())
        finally:
            exchange.close()
        encoder = exchange.encoder
        if self._over:
            return False
        if encoder.complete:
            self._rude = False
            return encoder.keep_alive and self._fault is None and not service.draining
        if encoder.head_sent:
            # Half a response must not look like a whole one: the reset tells.
            if not crashed and self._fault is None:
                logger.error("the application left its response to %s unfinished", exchange.head.target.decode())
            return False
        if self._fault is not None:
            await self._answer(exchange.head.method, self._fault.status, self._fault.reason)
        else:
            if not crashed:
                logger.error("the application did not answer %s", exchange.head.target.decode())
            await self._answer(exchange.head.method, 500, "internal error")
        return False

    async def _skip_unread(self, exchange: Exchange) -> bool:
        """Read what the application left of the body, if it is little; return whether its end was reached."""
        if exchange.body_ended:
            return True
        if exchange.expects:
            return False
        self._unread = self._service.limits.unread_body
        self._phase = Phase.UNREAD
        self._read_deadline = self._service.now + self._service.limits.body_timeout
        self._room.set()
        while not exchange.body_ended and self._fault is None and not self._over:
            await self._wake.wait()
        return exchange.body_ended

    async def _answer(self, method: str, status: int, reason: str) -> None:
        encoder = ResponseEncoder(method, "1.1", keep_alive=False)
        encoder.start(status, fault_headers(status, reason))
        with suppress(ClientDisconnected):
            await self.write(encoder.body(fault_body(status, reason), more=False))
            self._rude = False

    async def _linger(self) -> None:
        """Close so that the client can read our last answer although it may still be sending."""
        exchange = self._exchange
        if self._fault is None and exchange is not None and exchange.body_ended and not self._parser.buffered:
            return
        self._phase = Phase.CLOSING
        self._unread = self._service.limits.body_buffer
        self._read_deadline = self._service.now + _LINGER
        self._room.set()
        with suppress(*_GONE):
            await self._stream.send_eof()
        while not self._over:
            await self._wake.wait()
