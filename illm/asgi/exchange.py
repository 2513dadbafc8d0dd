"""One HTTP exchange: the request as read, the response as written, and what the access log will say of it."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import anyio

from illm.asgi.access_log import Record
from illm.asgi.names import new_name
from illm.dialects import openai
from illm.errors import GatewayError, Kind

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

logger = logging.getLogger("illm.asgi")

JSON = b"application/json"
_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class ClientGoneError(Exception):
    """The client left, or stalled for too long; nobody is there to answer."""


class Exchange:
    """One request and its one response.

    Args:
        scope, receive, send: as ASGI hands them over.
        limit: largest request body, bytes.
        patience: seconds the client may stall while sending its body or reading the response.
    """

    __slots__ = (
        "_patience",
        "_put",
        "_receive",
        "_send",
        "_size",
        "_take",
        "_unread",
        "headers",
        "limit",
        "own_server",
        "record",
        "scope",
        "started",
        "torn",
    )

    def __init__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, *, limit: int, patience: float
    ) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.limit = limit
        self.started = False
        self.torn = False
        """A message was cut off while it was sent: whatever came after it would be garbage."""
        self._size = 0
        self._unread = True
        extensions = scope.get("extensions")
        self.own_server = extensions is not None and "illm.disconnect" in extensions
        """It has deadlines of its own, and tells by a callback that the client left."""
        if self.own_server:
            self._take, self._put = receive, send
        else:
            self._receive, self._send, self._patience = receive, send, patience
            self._take, self._put = self._receive_in_time, self._send_in_time
        theirs = self.headers.get(b"x-request-id")
        name = theirs.decode("ascii") if theirs is not None and _REQUEST_ID.fullmatch(theirs) else new_name()
        self.record = Record(name, scope["method"], monotonic())

    @property
    def path(self) -> str:
        """The path below the mount point."""
        path: str = self.scope["path"]
        root: str | None = self.scope.get("root_path")
        if root:
            root = root.rstrip("/")
            # Servers and frameworks differ on whether `path` still has the mount point in front.
            return path[len(root) :] if root and path.startswith(root + "/") else path
        return path

    async def read(self) -> bytes | None:
        """Return the next piece of the body, or None after the last.

        Raises:
            GatewayError: larger than `limit`, or too slow.
            ClientGoneError: the client left in the middle.
        """
        if not self._unread:
            return None
        if not self._size:  # before a client that asks (`Expect`) is told to go on
            declared = self.headers.get(b"content-length")
            if declared is not None and declared.isdigit():
                self._check_size(int(declared))
        message = await self._take()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        self._unread = message.get("more_body", False)
        self._size += len(chunk)
        self._check_size(self._size)
        return chunk

    async def body(self) -> bytes:
        """Return the whole body.  Raises as `read`."""
        body = await self.read()
        if not self._unread:
            return body or b""
        chunks = [body or b""]
        while (chunk := await self.read()) is not None:
            chunks.append(chunk)
        return b"".join(chunks)

    async def start(self, content_type: bytes, *, status: int = 200, headers: Headers = ()) -> None:
        """Send the head; every response carries the request id."""
        self.started = self.torn = True
        self.record.status = status
        common = ((b"content-type", content_type), (b"x-request-id", self.record.request_id.encode()))
        try:
            await self._put({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
        except OSError as error:
            raise ClientGoneError from error
        self.torn = False

    async def start_stream(self, content_type: bytes) -> None:
        """Send the head of a stream that nobody on the way may buffer or keep."""
        await self.start(content_type, headers=_STREAM_HEADERS)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body; the last one with `more=False`."""
        self.torn = True
        try:
            await self._put({"type": "http.response.body", "body": data, "more_body": more})
        except OSError as error:  # TimeoutError is one
            raise ClientGoneError from error
        self.torn = False

    async def respond(
        self, body: bytes, *, status: int = 200, content_type: bytes = JSON, headers: Headers = ()
    ) -> None:
        """Send a whole response."""
        await self.start(content_type, status=status, headers=[(b"content-length", b"%d" % len(body)), *headers])
        await self.write(body, more=False)

    async def refuse(self, error: GatewayError, headers: Headers = ()) -> None:
        """Answer with an error, with the status and the retry hints of its kind."""
        self.note(error)
        body = openai.error_body(error)
        await self.respond(body, status=error.kind.value.status, headers=[*openai.error_headers(error), *headers])

    def note(self, error: GatewayError) -> None:
        """Keep an error for the access log; the cause of one on our side is logged, here and nowhere else."""
        self.record.error = error.kind.name.lower()
        if error.kind is Kind.INTERNAL and error.__cause__ is not None:
            logger.error("%s: %s", self.record.request_id, error, exc_info=error.__cause__)

    def tell(self, on_leave: Callable[[], None]) -> None:
        """Have `on_leave` called, once and synchronously, if the client goes; only our own server can do that."""
        self.scope["extensions"]["illm.disconnect"]["register"](on_leave)

    @asynccontextmanager
    async def watching(self, on_leave: Callable[[], None]) -> AsyncIterator[None]:
        """Have `on_leave` called, once and synchronously, if the client goes while the block runs.

        The body must have been read.  Nothing may be raised in the block but cancellation: on a foreign server it runs
        in a task group, which would wrap the exception.
        """
        if self.own_server:  # its callback spares a task
            self.tell(on_leave)
            yield
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, self._receive, on_leave)
            yield
            tasks.cancel_scope.cancel()

    def _check_size(self, size: int) -> None:
        if size > self.limit:
            raise GatewayError(Kind.TOO_LARGE, f"The request body is larger than {self.limit} bytes")

    async def _receive_in_time(self) -> Message:
        with anyio.move_on_after(self._patience):
            return await self._receive()
        raise GatewayError(Kind.SLOW_REQUEST, "The request body did not arrive in time")

    async def _send_in_time(self, message: Message) -> None:
        with anyio.fail_after(self._patience):
            await self._send(message)


async def _watch(receive: Receive, on_leave: Callable[[], None]) -> None:
    # Once, not in a loop: some hosts repeat the empty body for ever, without ever waiting.
    if (await receive())["type"] == "http.disconnect":
        on_leave()
