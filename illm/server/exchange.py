"""One request and its response, as the application sees them: `receive` and `send`.

The connection pushes what it parsed (`push`, `end_body`, `lose`), synchronously; the application pulls.  An exchange
outlives its usefulness when a task of the application keeps `send`: after `close` it only says that all is over.
A request whose body is here when it is asked for, and a response that the client takes, wait for nothing.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from illm.http11 import Head, ResponseEncoder, ResponseError
from illm.http11.response import CONTINUE
from illm.loop.wake import Wake
from illm.server.scope import Message

logger = logging.getLogger("illm.server")


class ClientDisconnected(OSError):  # noqa: N818  # a condition the application may expect, named as ASGI names it
    """`send` was called, but there is nobody to send to."""


class Line(Protocol):
    """What an exchange needs of its connection."""

    def write(self, data: bytes) -> bool:
        """Hand bytes to the socket.  False: wait for `room` before there is more."""
        ...

    async def room(self) -> None:
        """Wait until the client has taken enough.  Raises `ClientDisconnected`."""
        ...

    def await_body(self, waiting: bool) -> None:
        """Say that the application waits for the body now, or no longer."""
        ...

    def stays_open(self) -> bool:
        """Whether the connection can serve another request after this one, as far as is known now."""
        ...

    def read_on(self) -> None:
        """Say that the body's buffer has room."""
        ...


class Exchange:
    """See the module.

    Args:
        head: the request.
        line: its connection.
    """

    __slots__ = (
        "_callbacks",
        "_changed",
        "_chunks",
        "_delivered",
        "_line",
        "body_ended",
        "encoder",
        "expects",
        "gone",
        "head",
        "held",
    )

    def __init__(self, head: Head, line: Line) -> None:
        self.head = head
        self.encoder = ResponseEncoder(head.method, head.version, keep_alive=head.keep_alive)
        self.expects = head.expect_continue
        """The client may still wait for our 100 Continue."""
        self.gone = False
        """The client left, or its request broke: nothing more is sent."""
        self.body_ended = False
        self.held = 0
        """Body bytes that the application has not taken."""
        self._line = line
        self._chunks: list[bytes] = []
        self._delivered = False
        self._changed: Wake | None = None  # made by the first who waits
        self._callbacks: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """The response is out, complete."""
        return self.encoder.complete

    # The connection's side

    def push(self, data: bytes) -> None:
        """Add a piece of the body."""
        self.expects = False
        self._chunks.append(data)
        self.held += len(data)
        if self._changed is not None:
            self._changed.set()

    def end_body(self) -> None:
        """The body is complete."""
        self.body_ended = True
        self.expects = False
        if self._changed is not None:
            self._changed.set()

    def lose(self) -> None:
        """The client is gone: tell whoever asked to be told, once."""
        if self.gone:
            return
        self.gone = True
        if self._changed is not None:
            self._changed.set()
        callbacks, self._callbacks = self._callbacks, []
        if self.done:
            return
        for callback in callbacks:
            try:
                callback()
            except Exception:
                # It must not take the connection down with it.
                logger.exception("a disconnect callback failed")

    def close(self) -> None:
        """The application has returned: drop what it left behind."""
        self._callbacks.clear()
        self._chunks.clear()
        self.held = 0

    # The application's side

    def register(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the client goes away before its response is complete; now, if it has gone."""
        if self.done:
            return
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)

    async def receive(self) -> Message:
        """ASGI's receive: the body, then, whenever the client leaves or the response is out, the disconnect."""
        if self.expects and not self.gone and not self.encoder.started:
            self.expects = False
            if not self._line.write(CONTINUE):
                with suppress(ClientDisconnected):
                    await self._line.room()
        while True:
            if self.gone or self.encoder.complete:
                return {"type": "http.disconnect"}
            if self._chunks or (self.body_ended and not self._delivered):
                return self._take()
            if self._changed is None:
                self._changed = Wake()
            self._line.await_body(not self.body_ended)
            try:
                await self._changed.wait()
            finally:
                self._line.await_body(False)

    async def send(self, message: Message) -> None:
        """ASGI's send: returns when the bytes are with the socket, or as good as.

        Raises:
            ClientDisconnected: the client has left.
            ResponseError: the response is malformed; what was sent of it will not end cleanly.
        """
        if self.gone:
            raise ClientDisconnected("the client has left")
        encoder = self.encoder
        kind = message["type"]
        if kind == "http.response.body":
            if not encoder.head_sent and encoder.keep_alive and not self._line.stays_open():
                encoder.keep_alive = False
            data = encoder.body(message.get("body", b""), more=message.get("more_body", False))
            room = not data or self._line.write(data)
            if encoder.complete:
                self._callbacks.clear()
                if self._changed is not None:
                    self._changed.set()
            if not room:
                await self._line.room()
        elif kind == "http.response.start":
            encoder.start(message["status"], message.get("headers", ()))
        else:
            raise ResponseError(f"unexpected message {kind!r}")

    def _take(self) -> Message:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.held = 0
        self._delivered = self.body_ended
        self._line.read_on()
        return {"type": "http.request", "body": body, "more_body": not self.body_ended}
