"""One connection of the load generator: a bare protocol that writes, notes the time, and looks no closer."""

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from typing import cast

from benchmarks.load.exchange import Exchange
from benchmarks.load.responses import MalformedResponseError, ResponseParser
from benchmarks.socket_write import write_now


class Connection(asyncio.Protocol):
    """One request at a time.

    Attributes:
        usable: whether another request may be sent on it.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._ended: Ended = _ignore
        self._parser = ResponseParser()
        self._exchange: Exchange | None = None
        self._descriptor = -1
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self._descriptor = transport.get_extra_info("socket").fileno()

    def on_end(self, ended: "Ended") -> None:
        """Let `ended` be called with this connection and each exchange that has just ended, well or badly."""
        self._ended = ended

    def send(self, exchange: Exchange) -> None:
        """Begin an exchange; there must be none."""
        self._exchange = exchange
        self._parser.reset()
        exchange.sent = monotonic_ns()
        write_now(self.transport, self._descriptor, exchange.body.wire)

    def data_received(self, data: bytes) -> None:
        """Note what came and when."""
        now = monotonic_ns()
        exchange, parser = self._exchange, self._parser
        if exchange is None:
            self.usable = False  # an answer to nothing
            self.transport.abort()
            return
        try:
            piece = parser.feed(data)
        except MalformedResponseError as error:
            self._break(str(error))
            return
        if piece:
            exchange.pieces.append(piece)
            exchange.times.append(now)
        if parser.complete:
            self._finish(exchange, now)

    def connection_lost(self, error: Exception | None) -> None:
        """End the exchange, if there is one."""
        self.usable = False
        if self._exchange is None:
            return
        try:
            self._parser.end_of_connection()
        except MalformedResponseError as malformed:
            self._break(str(error or malformed))
        else:
            self._finish(self._exchange, monotonic_ns())

    def _finish(self, exchange: Exchange, now: int) -> None:
        head = self._parser.head
        assert head is not None
        exchange.status, exchange.ended = head.status, now
        if not head.keep:
            self.usable = False
            self.transport.close()
        self._exchange = None
        self._ended(self, exchange)

    def _break(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        self.usable = False
        self.transport.abort()
        if exchange is not None:
            exchange.broken = reason
            self._ended(self, exchange)


Ended = Callable[[Connection, Exchange], None]


def _ignore(connection: Connection, exchange: Exchange) -> None:
    """Let an exchange end without consequence."""
