"""One connection: what comes is taken synchronously, and one task runs the requests in order.

The wire calls us with bytes, so that a client that leaves is noticed while its request runs; the task is woken when
there is a request, and writes without waiting as long as the client reads.  All state changes are synchronous.  Nobody
here arms a timer: two deadlines are plain numbers, which the server's one watchdog compares with the clock (`check`);
what the passing of the reading one means depends on the phase.
"""

import logging
import math
from collections.abc import Callable

import anyio

from illm.http11 import Body, End, Event, Head, Refused, RequestParser, ResponseEncoder
from illm.loop.wake import Wake
from illm.loop.wire import Wire
from illm.server.application import Outcome, call_application
from illm.server.exchange import ClientDisconnected, Exchange
from illm.server.faults import fault_body, fault_headers
from illm.server.scope import Ends, ends_of
from illm.server.service import Phase, Service

logger = logging.getLogger("illm.server")

_LINGER = 2.0
"""Seconds a client may go on sending what nobody reads, so that it can read our last answer before a reset eats it."""


class Connection:
    """See the module; a `Receiver`, and the `Line` of its exchanges.  `run` owns the wire and closes it.

    Args:
        service: what it shares with the others.
        gone: called last.
    """

    _ends: Ends
    _wire: Wire

    __slots__ = (
        "_at", "_closed", "_ends", "_exchange", "_fault", "_full", "_gone", "_later", "_over", "_parser", "_paused",
        "_phase", "_read_deadline", "_room", "_rude", "_service", "_unread", "_wake", "_wire", "_write_deadline",
    )  # fmt: skip

    def __init__(self, service: Service, gone: "Callable[[Connection], None]") -> None:
        self._service = service
        self._gone = gone
        self._parser = RequestParser(service.message, service.engine)
        self._exchange: Exchange | None = None
        self._fault: Refused | None = None
        self._over = False  # the client left, or may as well have
        self._closed = False
        self._paused = False
        self._rude = False  # end with a reset, as what was sent may look complete but is not
        self._full = False  # the wire asked for a pause
        self._later = b""  # what is to be written after it,
        self._at = 0  # from here on: to cut pieces off would copy the rest each time
        self._unread = 0
        self._wake = Wake()  # for the task that runs the requests
        self._room = Wake()  # for whoever writes
        self._phase = Phase.IDLE
        self._read_deadline = service.now + service.limits.header_timeout
        self._write_deadline = math.inf

    async def run(self) -> None:
        """Serve until the client or we have had enough."""
        try:
            await self._converse()
            if not self._rude:
                self._write_deadline = self._service.now + self._service.limits.write_timeout
                self._wire.close()
                while not self._closed:
                    await self._wake.wait()
        except Exception:
            logger.exception("a connection failed")
        finally:
            self._exchange = None  # it knows us: a cycle that only the garbage collector would find
            self._wire.abort(reset=self._rude)
            self._gone(self)

    # What the server tells us

    def check(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now >= self._write_deadline:
            self._write_deadline = math.inf
            self._lose()
            self._wire.abort(reset=True)
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

    def write(self, data: bytes) -> bool:
        """See `Line`."""
        service = self._service
        if len(data) > service.limits.write_bytes or self._later:
            self._later += data
            self._write_on()
        elif not self._wire.write(data):
            self._full = True
            self._write_deadline = service.now + service.limits.write_timeout
        return not (self._full or self._later)

    async def room(self) -> None:
        """See `Line`."""
        while self._full or self._later:
            if self._over:
                raise ClientDisconnected("the client has left")
            if self._full:
                await self._room.wait()
            else:
                self._write_on()

    def await_body(self, waiting: bool) -> None:
        """See `Line`.  Only then a pause is the client's: otherwise it may be us who do not read."""
        if self._phase is Phase.REQUEST:
            self._read_deadline = self._service.now + self._service.limits.body_timeout if waiting else math.inf

    def stays_open(self) -> bool:
        """See `Line`."""
        exchange = self._exchange
        if self._service.draining or self._over or exchange is None:
            return False
        if exchange.body_ended:
            return True
        # A client that waits for our 100 Continue may send the body or not: nobody could tell what comes next.
        unread = self._parser.unread
        return not exchange.expects and (unread is None or unread <= self._service.limits.unread_body)

    def read_on(self) -> None:
        """See `Line`."""
        if self._paused and not self._crowded():
            self._paused = False
            self._wire.resume()

    # What the wire tells us

    def opened(self, wire: Wire) -> None:
        """See `Owner`."""
        self._wire = wire
        self._ends = ends_of(wire.socket)
        self._service.tasks.start_soon(self.run)

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        if self._phase is Phase.CLOSING:
            self._discard(len(data))
            return
        if events := self._parser.feed(data):
            self._take(events)
        elif self._phase is Phase.IDLE and self._parser.buffered:
            self._phase = Phase.HEAD
            self._read_deadline = self._service.now + self._service.limits.header_timeout
        if self._phase is Phase.REQUEST:
            if self._read_deadline != math.inf:
                self._read_deadline = self._service.now + self._service.limits.body_timeout
            if self._crowded():
                self._paused = True
                self._wire.pause()

    def ended(self, broken: bool) -> None:
        """See `Receiver`."""
        self._lose()

    def drained(self) -> None:
        """See `Receiver`."""
        self._full = False
        self._write_deadline = math.inf
        self._room.set()

    def closed(self) -> None:
        """See `Receiver`."""
        self._closed = True
        self._wake.set()

    def _crowded(self) -> bool:
        exchange, limits = self._exchange, self._service.limits
        if exchange is None or self._phase is Phase.CLOSING:
            return False
        return exchange.held >= limits.body_buffer or self._parser.buffered >= limits.pipeline_buffer

    def _take(self, events: list[Event]) -> None:
        exchange = self._exchange
        for event in events:
            if isinstance(event, Head):
                self._exchange = exchange = Exchange(event, self)
                self._phase = Phase.REQUEST
                self._read_deadline = math.inf
            elif isinstance(event, Body):
                if self._phase is Phase.UNREAD:
                    self._discard(len(event.data))
                elif exchange is not None:
                    exchange.push(event.data)
            elif isinstance(event, End):
                if exchange is not None:
                    exchange.end_body()
            else:
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
        self._room.set()

    def _write_on(self) -> None:
        """Write the next piece: the deadline is for each."""
        size = self._service.limits.write_bytes
        while self._later and not self._full:
            piece = self._later[self._at : self._at + size]
            self._at += size
            if self._at >= len(self._later):
                self._later, self._at = b"", 0
            if not self._wire.write(piece):
                self._full = True
                self._write_deadline = self._service.now + self._service.limits.write_timeout

    # The requests

    async def _converse(self) -> None:
        stays = True
        while stays and not self._over:
            while self._exchange is None and self._fault is None and not self._over:
                await self._wake.wait()
            exchange = self._exchange
            if exchange is not None:
                stays = await self._serve(exchange) and (exchange.body_ended or await self._skip_unread(exchange))
                if stays:
                    self._next_request()
                    if self._exchange is not None:  # it was here already: others have waited too
                        await anyio.lowlevel.checkpoint()
            elif self._fault is not None:
                self._answer("GET", self._fault)
                stays = False
        if not self._over and not self._rude:
            await self._linger()

    def _next_request(self) -> None:
        self._exchange = None
        self._phase = Phase.IDLE
        self._rude = False
        service, parser = self._service, self._parser
        if service.draining:
            self._lose()
            return
        events = parser.next_request()
        self._read_deadline = service.now + service.limits.keep_alive
        if parser.buffered and not events:
            self._phase = Phase.HEAD
            self._read_deadline = service.now + service.limits.header_timeout
        if events:
            self._take(events)
        self.read_on()

    async def _serve(self, exchange: Exchange) -> bool:
        """Run one request; return whether the connection may go on."""
        self._rude = True
        outcome = await call_application(exchange, self._ends, self._service)
        if isinstance(outcome, Refused):
            self._refuse(outcome)
        if self._later:  # the application gave up waiting for room
            return False
        if outcome is Outcome.COMPLETE:
            self._rude = False
            going_on = self._fault is None and not self._over and not self._service.draining
            return exchange.encoder.keep_alive and going_on
        if self._over:
            return False
        if outcome is not Outcome.UNFINISHED:  # else the reset tells that this is not all
            self._answer(exchange.head.method, self._fault or Refused(500, "internal error"))
        return False

    async def _skip_unread(self, exchange: Exchange) -> bool:
        """Read what the application left of the body, if it is little; return whether its end was reached."""
        if exchange.expects:
            return False
        self._unread = self._service.limits.unread_body
        self._phase = Phase.UNREAD
        self._read_deadline = self._service.now + self._service.limits.body_timeout
        self.read_on()
        while not exchange.body_ended and self._fault is None and not self._over:
            await self._wake.wait()
        return exchange.body_ended

    def _answer(self, method: str, fault: Refused) -> None:
        encoder = ResponseEncoder(method, "1.1", keep_alive=False)
        encoder.start(fault.status, fault_headers(fault.status, fault.reason))
        self.write(encoder.body(fault_body(fault.status, fault.reason), more=False))
        self._rude = False

    async def _linger(self) -> None:
        """Close so that the client can read our last answer although it may still be sending."""
        exchange = self._exchange
        if self._fault is None and exchange is not None and exchange.body_ended and not self._parser.buffered:
            return
        self._phase = Phase.CLOSING
        self._unread = self._service.limits.body_buffer
        self._read_deadline = self._service.now + _LINGER
        self.read_on()
        self._wire.end()
        while not self._over:
            await self._wake.wait()
