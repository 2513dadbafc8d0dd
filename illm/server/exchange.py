"""One request and its response, as the application sees them: `receive` and `send`.

The connection pushes what it parsed (`push`, `end_body`, `lose`), synchronously; the application pulls.  An exchange
outlives its usefulness when a task of the application keeps `send`: after `close` it only says that all is over.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from illm.http11 import Head, ResponseEncoder, ResponseError
from illm.http11.response import CONTINUE
from illm.server.scope import Message
from illm.server.wake import Wake

logger = logging.getLogger("illm.server")


class ClientDisconnected(OSError):  # noqa: N818  # a condition the application may expect, named as ASGI names it
    """`send` was called, but there is nobody to send to."""


class Wire(Protocol):
    """What an exchange needs of its connection."""

    async def write(self, data: bytes) -> None:
        """Hand bytes to the socket.  Raises `ClientDisconnected`."""
        ...

    def await_body(self, waiting: bool) -> None:
        """Say that the application waits for the body now, or no longer."""
        ...

    def stays_open(self) -> bool:
        """Whether the connection can serve another request after this one, as far as is known now."""
        ...

    def resume(self) -> None:
        """Say that the body's buffer has room."""
        ...


class Exchange:
    """See the module.

    Args:
        head: the request.
        wire: its connection.
    """

    __slots__ = (
        "_callbacks",
        "_changed",
        "_chunks",
        "_delivered",
        "_wire",
        "body_ended",
        "encoder",
        "expects",
        "gone",
        "head",
        "held",
    )

    def __init__(self, head: Head, wire: Wire) -> None:
        self.head = head
        self.encoder = ResponseEncoder(head.method, head.version, keep_alive=head.keep_alive)
        self.expects = head.expect_continue
        """The client may still wait for our 100 Continue."""
        self.gone = False
        """The client left, or its request broke: nothing more is sent."""
        self.body_ended = False
        self.held = 0
        """Body bytes that the application has not taken."""
        self._wire = wire
        self._chunks: list[bytes] = []
        self._delivered = False
        self._changed = Wake()
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
        self._changed.set()

    def end_body(self) -> None:
        """The body is complete."""
        self.body_ended = True
        self.expects = False
        self._changed.set()

    def lose(self) -> None:
        """The client is gone: tell whoever asked to be told, once."""
        if self.gone:
            return
        self.gone = True
        self._changed.set()
        callbacks, self._callbacks = self._callbacks, []
        if self.done:
            return
        for callback in callbacks:
            try:
                callback()
            except Exception:
                # It must not take the connection's reader down with it.
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
        if self.expects and not self.encoder.started:
            self.expects = False
            with suppress(ClientDisconnected):
                await self._wire.write(CONTINUE)
        while True:
            if self.gone or self.done:
                return {"type": "http.disconnect"}
            if self._chunks or (self.body_ended and not self._delivered):
                return self._take()
            self._wire.await_body(not self.body_ended)
            try:
                await self._changed.wait()
            finally:
                self._wire.await_body(False)

    async def send(self, message: Message) -> None:
        """ASGI's send: returns when the bytes are with the socket.

        Raises:
            ClientDisconnected: the client has left.
            ResponseError: the response is malformed; what was sent of it will not end cleanly.
        """
        if self.gone:
            raise ClientDisconnected("the client has left")
        kind = message["type"]
        if kind == "http.response.body":
            encoder = self.encoder
            if encoder.keep_alive and not encoder.head_sent and not self._wire.stays_open():
                encoder.keep_alive = False
            data = encoder.body(message.get("body", b""), more=message.get("more_body", False))
            if data:
                await self._wire.write(data)
            if encoder.complete:
                self._callbacks.clear()
                self._changed.set()
        elif kind == "http.response.start":
            self.encoder.start(message["status"], message.get("headers", ()))
        else:
            raise ResponseError(f"unexpected message {kind!r}")

    def _take(self) -> Message:
        chunks, self._chunks = self._chunks, []
        self.held = 0
        self._delivered = self.body_ended
        self._wire.resume()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return {"type": "http.request", "body": body, "more_body": not self.body_ended}
