"""Byte streams that call their owner: what came is handed over synchronously, what is written never waits.

A task that waits for bytes costs every message a wake-up, and a write that may wait costs one more.  So both ends of
the gateway are `Receiver`s, and a `Wire` has two drivers: asyncio's own transports (`AsyncioWire`), and any anyio byte
stream (`StreamWire`: trio, and streams that are no sockets).

The order of calls is the same with both: `received` any number of times, `ended` once, `closed` once and last.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from illm.loop.wake import Wake, native_loop

HIGH_WATER = 64 * 1024
"""Unsent bytes from which on `write` asks for a pause."""
READ_BYTES = 64 * 1024
"""The most that is read at once where we read ourselves."""

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_RESET = struct.pack("ii", 1, 0)


class Receiver(Protocol):
    """The owner of one end of a stream.  Nothing here may raise or wait."""

    def received(self, data: bytes) -> None:
        """Take what has come, never empty.  Not called while paused, nor after `ended`."""

    def ended(self, broken: bool) -> None:
        """Nothing more will come: the other side closed its half properly, or the connection is `broken`."""

    def drained(self) -> None:
        """There is room again, after a `write` that returned False."""

    def closed(self) -> None:
        """The stream is gone, whoever wanted it; called once, last."""


class Wire(Protocol):
    """One open stream."""

    @property
    def socket(self) -> Any:
        """The socket below, for options and addresses; None where there is none."""

    def write(self, data: bytes) -> bool:
        """Send, or keep to be sent; after the end it is dropped.  False asks for a pause until `drained`."""

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the other side to read."""

    def pause(self) -> None:
        """Stop reading: the other side feels it.  Its leaving may go unnoticed meanwhile.  Idempotent."""

    def resume(self) -> None:
        """Read again.  Idempotent."""

    def end(self) -> None:
        """Close our half once everything is sent, where the stream has halves."""

    def close(self) -> None:
        """Close once everything is sent.  Idempotent."""

    def abort(self, *, reset: bool = False) -> None:
        """Close now and forget what was not sent; with `reset` so that the other side sees it broken.  Idempotent."""


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
        _send_at_once(self.socket)

    def data_received(self, data: bytes) -> None:
        if not self._ended:
            self.receiver.received(data)  # type: ignore[union-attr]  # set before the loop reads

    def eof_received(self) -> bool:
        self._end(broken=False)
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
                _reset_on_close(self.socket)
            self._transport.abort()

    def _end(self, *, broken: bool) -> None:
        if not self._ended:
            self._ended = True
            if self.receiver is not None:
                self.receiver.ended(broken)


class StreamWire:
    """A wire on an anyio byte stream, which it owns; `run` does the waiting and closes the stream.

    Args:
        stream: open.
        receiver: the owner.
    """

    __slots__ = (
        "_broken", "_closing", "_ended", "_ending", "_full", "_paused", "_raw", "_receiver", "_scope", "_size",
        "_stream", "_unsent", "_wake_reader", "_wake_writer", "socket",
    )  # fmt: skip

    def __init__(self, stream: ByteStream, receiver: Receiver) -> None:
        self._stream = stream
        self._receiver = receiver
        self.socket: Any = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610  # not Django's
        _send_at_once(self.socket)
        # A plain socket's own `send` mostly takes everything at once, and no task is woken.  What asyncio writes goes
        # through its transport, which may hold older bytes.
        self._raw = self.socket if isinstance(stream, SocketStream) and native_loop() is None else None
        self._scope = anyio.CancelScope()
        self._unsent: list[bytes] = []
        self._size = 0
        self._ended = self._paused = self._full = self._ending = self._closing = self._broken = False
        self._wake_reader = Wake()
        self._wake_writer = Wake()

    async def run(self) -> None:
        """Move bytes until either side closes, or the task is cancelled."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write_on)
                    await self._read_on()
        finally:
            self._end(broken=True)
            try:
                await anyio.aclose_forcefully(self._stream)
            finally:  # a task that is being cancelled is told so there, too
                self._receiver.closed()

    def write(self, data: bytes) -> bool:
        if self._closing or self._scope.cancel_called:
            return True
        if self._raw is not None and not self._unsent:
            try:
                sent = self._raw.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # The reader learns it too, after what the other side said before it went; but not while it is paused.
                if self._paused:
                    self._broken = True
                    self._wake_writer.set()
                return True
            if sent == len(data):
                return True
            data = data[sent:]
        self._unsent.append(data)
        self._size += len(data)
        self._wake_writer.set()
        self._full = self._full or self._size >= HIGH_WATER
        return not self._full

    @property
    def unsent(self) -> bool:
        return bool(self._size) and not self._scope.cancel_called

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._wake_reader.set()

    def end(self) -> None:
        self._ending = True
        self._wake_writer.set()

    def close(self) -> None:
        self._closing = True
        self._wake_writer.set()

    def abort(self, *, reset: bool = False) -> None:
        if reset:
            _reset_on_close(self.socket)
        self._scope.cancel()

    async def _read_on(self) -> None:
        broken = False
        try:
            while True:
                data = await self._receive()
                await self._resumed()  # bytes that were on their way when the owner paused are kept back, not dropped
                self._receiver.received(data)
                await self._resumed()
        except anyio.EndOfStream:
            pass
        except _GONE:
            broken = True
        self._end(broken=broken)
        if broken:
            self._scope.cancel()

    async def _receive(self) -> bytes:
        raw = self._raw
        if raw is None:
            return await self._stream.receive()
        while True:
            await anyio.wait_readable(raw)
            # trio's own `receive` may let others run between taking bytes and returning them.  Until the owner has been
            # told of them, the socket has to say that they are there: who writes a request first looks at that.
            with suppress(BlockingIOError, InterruptedError):
                data: bytes = raw.recv(READ_BYTES)
                if not data:
                    raise anyio.EndOfStream
                return data

    async def _resumed(self) -> None:
        while self._paused:
            await self._wake_reader.wait()

    async def _write_on(self) -> None:
        try:
            while True:
                while not (self._unsent or self._ending or self._closing or self._broken):
                    await self._wake_writer.wait()
                if self._broken:
                    raise anyio.BrokenResourceError
                if self._unsent:
                    await self._flush()
                elif self._closing:
                    break
                else:
                    self._ending = False
                    with suppress(NotImplementedError):  # TLS has no halves
                        await self._stream.send_eof()
        except _GONE:
            self._size, self._unsent = 0, []
            self._end(broken=True)
        self._scope.cancel()

    async def _flush(self) -> None:
        # Left in the list until sent: what is written meanwhile must queue behind it.
        pieces = len(self._unsent)
        data = b"".join(self._unsent)
        await self._stream.send(data)
        del self._unsent[:pieces]
        self._size -= len(data)
        if self._full and self._size < HIGH_WATER // 4:
            self._full = False
            self._receiver.drained()

    def _end(self, *, broken: bool) -> None:
        if not self._ended:
            self._ended = True
            self._receiver.ended(broken)


def _send_at_once(raw: Any) -> None:
    # Both sides write a message and then wait: Nagle's algorithm could only delay it.
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):  # the other side has left: macOS tells it here
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset_on_close(raw: Any) -> None:
    if raw is not None:
        # ValueError: uvloop's word for a socket that is closed already.
        with suppress(OSError, ValueError, NotImplementedError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
