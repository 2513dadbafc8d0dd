"""The driver of a wire on the transports of asyncio and uvloop."""

import asyncio
from typing import Any

from illm.loop.wire import Receiver, reset_on_close, send_at_once


class AsyncioWire(asyncio.Protocol):
    """A wire on a transport of asyncio's or uvloop's; make it in a protocol factory.

    Args:
        receiver: the owner, or None where `made` has to make it.
    """

    __slots__ = ("_closed", "_ended", "_full", "_paused", "_transport", "receiver")

    def __init__(self, receiver: Receiver | None = None) -> None:
        self.receiver = receiver
        self._transport: Any = None
        self._ended = self._closed = self._full = self._paused = False

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        send_at_once(self.socket)

    def data_received(self, data: bytes) -> None:
        if not self._ended:
            self.receiver.received(data)  # type: ignore[union-attr]  # set before the loop reads

    def eof_received(self) -> bool:
        self._end(broken=not self._all_was_said())
        # Kept open, so that an answer can still be sent; TLS has no halves.
        return self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._end(broken=True)
        receiver, self.receiver = self.receiver, None  # both know each other
        if receiver is not None:
            receiver.closed()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self.receiver is not None:
            self.receiver.drained()

    # What the owner calls

    @property
    def socket(self) -> Any:
        return self._transport.get_extra_info("socket")

    def write(self, data: bytes) -> bool:
        if self._closed or self._transport.is_closing():
            return True
        self._transport.write(data)
        return not self._full

    @property
    def unsent(self) -> bool:
        return not self._closed and self._transport.get_write_buffer_size() > 0

    def pause(self) -> None:
        if not self._paused and not self._closed and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self._closed and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def end(self) -> None:
        if not self._closed and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        if not self._closed:
            self._transport.close()

    def abort(self, *, reset: bool = False) -> None:
        if not self._closed:
            if reset:
                reset_on_close(self.socket)
            self._transport.abort()

    def _all_was_said(self) -> bool:
        """Whether the other side ended the stream: with TLS, anybody on the way can end the connection below it."""
        tls = self._transport.get_extra_info("ssl_object")
        try:
            return tls is None or not tls.read(1)  # nothing asyncio offers tells of the farewell
        except OSError:  # TLS waits for more
            return False

    def _end(self, *, broken: bool) -> None:
        if not self._ended:
            self._ended = True
            if self.receiver is not None:
                self.receiver.ended(broken)
