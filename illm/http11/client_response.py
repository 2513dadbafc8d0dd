"""The client's side, inwards: the bytes of one response, to its head and the pieces of its body.

Strict: a response that is malformed or ambiguous in its framing is a fault, never guessed at.  No engine runs here.
Finding every boundary is all there is to reading a response, so an engine behind the check would walk the same bytes
a second time; tests hold it to what h11 reads instead.

No events are made either: a read is mostly one token's bytes, and objects around them would cost more than finding
them.  What `feed` does not return stands in attributes.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from illm.http11.client_chunks import ChunkDecoder
from illm.http11.framing import FIELD_LINES

_STATUS = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?")
_FIELD = re.compile(FIELD_LINES)
# What no continuation makes a head; it would otherwise be waited for until a deadline.
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
_BEGINS = b"HTTP/1."
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ONCE = frozenset((b"content-length", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))
_SWITCHING = 101
_HEAD_BYTES = 64 * 1024


class ResponseHead(NamedTuple):
    """How a final response begins; shared between responses that begin alike, so nobody may write to it.

    `headers` have lowercase names, repeated fields joined by a comma; `length` is the body's size in bytes, `None`
    where it is `chunked` or only the connection's end will tell.  `keep_alive`: the server will take another request.
    """

    status: int
    headers: Mapping[bytes, bytes]
    length: int | None
    keep_alive: bool
    chunked: bool = False


# Most of what servers begin their answers with has been read before: whole heads within the second of their date, where
# the length is the same or there is none, and most lines of the others.
_READ: dict[bytes, ResponseHead] = {}
_READ_MOST, _READ_BYTES = 256, 1024
_LINES: dict[bytes, tuple[bytes, bytes]] = {}
_LINES_MOST, _LINE_BYTES = 1024, 256


class _Broken(Exception):  # noqa: N818  # control flow inside this file
    pass


class ResponseParser:
    """Parses the one response to one request.  Interim responses are skipped.

    Args:
        method: the request's: a response to HEAD has no body.

    Attributes:
        begun: at least one byte has come.
        head: of the response, once it is complete.
        over: nothing more can be read: the response is complete, or `fault` says why it never will be.
        fault: for our log, not for clients.
        reusable: the response is complete, and the connection good for another request.
    """

    __slots__ = ("_buffer", "_chunks", "_left", "_method", "_searched", "begun", "fault", "head", "over", "reusable")

    def __init__(self, method: str = "POST") -> None:
        self.restart(method)

    def restart(self, method: str) -> None:
        """Forget everything: the next bytes answer another request."""
        self._method = method
        self._buffer = b""
        """What there is of a head that is not complete."""
        self._searched = 0
        self._left: int | None = 0
        """Bytes left of a counted body; None where the end of the connection ends it."""
        self._chunks: ChunkDecoder | None = None
        self.head: ResponseHead | None = None
        self.fault: str | None = None
        self.begun = self.over = self.reusable = False

    def feed(self, data: bytes) -> bytes:
        """Take what came from the socket, cut anywhere; return the bytes of the body that are in it."""
        self.begun = True
        if self.over:  # bytes nobody asked for: whose answer would they be?
            self.reusable = False
            return b""
        head = self.head
        if head is None:
            try:
                data = self._begin(data)
            except _Broken as reason:
                self._break(str(reason))
                return b""
            head = self.head
            if head is None:
                return b""
        if self._chunks is not None:
            return self._unchunk(self._chunks, data) if data else b""
        left = self._left
        if left is None:
            return data
        size = len(data)
        if size < left:
            self._left = left - size
            return data
        self.over = True
        if size == left:
            self.reusable = head.keep_alive
            return data
        return data[:left]

    def eof(self, *, broken: bool = False) -> None:
        """The connection has ended, or is `broken`: that completes the response, or breaks it off."""
        if self.over:
            return
        if self.head is not None and self._left is None and self._chunks is None and not broken:
            self.over = True
        else:
            self._break("the connection ended in the middle of a response")

    def _begin(self, data: bytes) -> bytes:
        """Read heads, up to the one that counts; return what follows it."""
        while data:
            searched = self._searched
            if self._buffer:
                data = self._buffer + data
            end = data.find(b"\r\n\r\n", max(0, searched - 3)) + 4
            if end < 4 or end > _HEAD_BYTES:
                if len(data) > _HEAD_BYTES:
                    raise _Broken("the head is too large")
                if not data.startswith(_BEGINS[: len(data)]) or _NEVER.search(data, max(0, searched - 1)):
                    raise _Broken("not an HTTP/1.1 response")
                self._buffer, self._searched = data, len(data)
                return b""
            self._buffer, self._searched = b"", 0
            block, data = data[:end], data[end:]
            head = _READ.get(block) or _remember(block)
            if head.status == _SWITCHING:
                raise _Broken("switches to a protocol nobody asked for")
            if head.status >= 200:
                self._frame(head)
                break
        return data

    def _frame(self, head: ResponseHead) -> None:
        self.head = head
        if self._method == "HEAD" or head.status in _BODILESS:
            self._left = 0
        elif head.chunked:
            self._chunks = ChunkDecoder()
        else:
            self._left = head.length

    def _unchunk(self, chunks: ChunkDecoder, data: bytes) -> bytes:
        body = chunks.feed(data)
        if chunks.done:
            self.over = True
            self.reusable = not chunks.rest and self.head is not None and self.head.keep_alive
        elif chunks.fault is not None:
            self._break(chunks.fault)
        return body

    def _break(self, reason: str) -> None:
        self.over = True
        self.fault = reason


def _remember(block: bytes) -> ResponseHead:
    head = _read(block)
    if len(block) <= _READ_BYTES:
        if len(_READ) >= _READ_MOST:
            _READ.clear()
        _READ[block] = head
    return head


def _read(block: bytes) -> ResponseHead:
    begin, *lines, _, _ = block.split(b"\r\n")
    match = _STATUS.fullmatch(begin)
    if match is None:
        raise _Broken("malformed head")
    modern, status, headers = match[1] == b"1.1", int(match[2]), _fields(lines)
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    keep_alive = modern and not _closes(headers.get(b"connection"))
    if status < 200 or status in _BODILESS:
        return ResponseHead(status, headers, None, keep_alive)
    if coding is not None:
        if not modern or coding.lower() != b"chunked" or length is not None:
            raise _Broken("ambiguous or unknown transfer-encoding")
        return ResponseHead(status, headers, None, keep_alive, chunked=True)
    if length is None:
        return ResponseHead(status, headers, None, keep_alive=False)
    if _LENGTH.fullmatch(length) is None:
        raise _Broken("malformed content-length")
    return ResponseHead(status, headers, int(length), keep_alive)


def _closes(connection: bytes | None) -> bool:
    if connection is None or connection == b"keep-alive":
        return False
    return b"close" in [word.strip() for word in connection.lower().split(b",")]


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in lines:
        name, value = _LINES.get(line) or _field(line)
        if name in found:
            if name in _ONCE:
                raise _Broken(f"{name.decode()} given more than once")
            value = found[name] + b", " + value
        found[name] = value
    return found


def _field(line: bytes) -> tuple[bytes, bytes]:
    if _FIELD.fullmatch(line + b"\r\n") is None or not line:
        raise _Broken("malformed head")
    name, _, value = line.partition(b":")
    field = name.lower(), value.strip(b" \t")
    if len(line) <= _LINE_BYTES:
        if len(_LINES) >= _LINES_MOST:
            _LINES.clear()
        _LINES[line] = field
    return field
