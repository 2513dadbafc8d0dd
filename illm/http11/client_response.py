"""The client's side, inwards: bytes to the events of one response.

Strict: a response that is malformed or ambiguous in its framing is `Malformed`, never guessed at.  No engine runs here.
Finding every boundary is all there is to reading a response, so an engine behind the check would walk the same bytes
a second time; tests hold it to what h11 reads instead.
"""

import re
from dataclasses import dataclass

from illm.http11.client_chunks import ChunkDecoder
from illm.http11.events import Body, End
from illm.http11.framing import FIELD_LINES

_HEAD = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n(" + FIELD_LINES + rb")\r\n")
# What no continuation makes a head; it would otherwise be waited for until a deadline.
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
_BEGINS = b"HTTP/1."
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = frozenset((b"content-length", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))
_SWITCHING = 101
_HEAD_BYTES = 64 * 1024
_END = End()


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A final response has begun.

    `headers` have lowercase names, repeated fields joined by a comma; `length` is the body's size in bytes, `None`
    where only its end will tell.  `keep_alive`: the server will take another request.
    """

    status: int
    headers: dict[bytes, bytes]
    length: int | None
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came is no response, or not all of one; nothing follows.  `reason` is for our log, not for clients."""

    reason: str


ResponseEvent = ResponseHead | Body | End | Malformed


class _Broken(Exception):  # noqa: N818  # control flow inside this file
    pass


class ResponseParser:
    """Parses the one response to one request.  Interim responses are skipped.

    Args:
        method: the request's: a response to HEAD has no body.

    Attributes:
        begun: at least one byte has come.
        reusable: the response is complete, and the connection good for another request.
    """

    __slots__ = ("_buffer", "_chunks", "_keep_alive", "_left", "_method", "_over", "_searched", "begun", "reusable")

    def __init__(self, method: str = "POST") -> None:
        self._method = method
        self._buffer: bytes | None = b""
        """What there is of the head; None once it is complete."""
        self._searched = 0
        self._left: int | None = 0
        """Bytes left of a counted body; None where the end of the connection ends it."""
        self._chunks: ChunkDecoder | None = None
        self._keep_alive = False
        self._over = False
        self.begun = self.reusable = False

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """Take what came from the socket, cut anywhere; return what it completes, a read's body bytes in one `Body`."""
        self.begun = True
        events: list[ResponseEvent] = []
        if self._over:  # bytes nobody asked for: whose answer would they be?
            self.reusable = False
            return events
        try:
            while self._buffer is not None and data:
                data = self._head(self._buffer + data, events)
            if self._buffer is None:
                self._body(data, events)
        except _Broken as reason:
            self._over = True
            events.append(Malformed(str(reason)))
        return events

    def eof(self, *, broken: bool = False) -> list[ResponseEvent]:
        """The connection has ended, or is `broken`; return what that completes."""
        if self._over:
            return []
        self._over = True
        if self._buffer is None and self._left is None and self._chunks is None and not broken:
            return [_END]
        return [Malformed("the connection ended in the middle of a response")]

    def _head(self, data: bytes, events: list[ResponseEvent]) -> bytes:
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if end < 4 or end > _HEAD_BYTES:
            if len(data) > _HEAD_BYTES:
                raise _Broken("the head is too large")
            if not data.startswith(_BEGINS[: len(data)]) or _NEVER.search(data, max(0, self._searched - 1)):
                raise _Broken("not an HTTP/1.1 response")
            self._buffer, self._searched = data, len(data)
            return b""
        match = _HEAD.fullmatch(data, 0, end)
        if match is None:
            raise _Broken("malformed head")
        self._searched, self._buffer = 0, b""
        status = int(match[2])
        if status == _SWITCHING:
            raise _Broken("switches to a protocol nobody asked for")
        if status >= 200:
            self._buffer = None
            events.append(self._frame(status, _fields(match[3]), modern=match[1] == b"1.1"))
        return data[end:]

    def _frame(self, status: int, headers: dict[bytes, bytes], *, modern: bool) -> ResponseHead:
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        closes = b"close" in [word.strip() for word in headers.get(b"connection", b"").lower().split(b",")]
        self._keep_alive = modern and not closes
        if self._method == "HEAD" or status in _BODILESS:
            self._left = 0
        elif coding is not None:
            if not modern or coding.lower() != b"chunked" or length is not None:
                raise _Broken("ambiguous or unknown transfer-encoding")
            self._chunks, self._left = ChunkDecoder(), None
        elif length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise _Broken("malformed content-length")
            self._left = int(length)
        else:
            self._left, self._keep_alive = None, False
        return ResponseHead(status, headers, self._left, self._keep_alive)

    def _body(self, data: bytes, events: list[ResponseEvent]) -> None:
        if self._chunks is not None:
            body = self._chunks.feed(data) if data else b""
            if body:
                events.append(Body(body))
            if self._chunks.fault is not None:
                raise _Broken(self._chunks.fault)
            if self._chunks.done:
                self._finish(events, self._chunks.rest)
        elif self._left is None:
            if data:
                events.append(Body(data))
        else:
            body, rest = data[: self._left], data[self._left :]
            self._left -= len(body)
            if body:
                events.append(Body(body))
            if not self._left:
                self._finish(events, rest)

    def _finish(self, events: list[ResponseEvent], rest: bytes) -> None:
        self._over = True
        self.reusable = self._keep_alive and not rest
        events.append(_END)


def _fields(block: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in found:
            if name in _ONCE:
                raise _Broken(f"{name.decode()} given more than once")
            value = found[name] + b", " + value
        found[name] = value
    return found
