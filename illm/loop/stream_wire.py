"""The driver of a wire on any anyio byte stream: on trio, and for streams that are no sockets."""

from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from illm.loop.wake import Wake, native_loop
from illm.loop.wire import HIGH_WATER, READ_BYTES, Receiver, reset_on_close, send_at_once

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


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
        send_at_once(self.socket)
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
                with suppress(*_GONE, anyio.EndOfStream):  # TLS would say farewell, even to who has gone without
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
            reset_on_close(self.socket)
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
