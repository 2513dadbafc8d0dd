"""Responses: a status and header fields, then body pieces, to the bytes that carry them.

The encoder decides the framing once it has seen the first piece: the application's own content-length, else the length
of a body that is already complete, else chunks, else (HTTP/1.0) the end of the connection.  Hop-by-hop fields are
ours.  It never lets a broken response look complete: a body that does not fit its content-length is an error.
"""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from illm.http11.framing import FIELD_LINE

_FIELD = re.compile(FIELD_LINE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {code: b"HTTP/1.1 %d %b\r\n" % (code, phrase) for code, phrase in _PHRASES.items()}
_BODILESS = frozenset((204, 304))
_UNFRAMED = -1

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ResponseError(Exception):
    """The application's response cannot be sent as it is."""


class _Date:
    __slots__ = ("line", "second", "with_server")

    def __init__(self) -> None:
        self.second = 0
        self.line = self.with_server = b""


_date = _Date()
_SERVER = b"server: illm\r\n"

_LINES: dict[tuple[bytes, bytes], bytes] = {}
"""Field lines that were checked; those that framing depends on are not among them."""
_LINES_MOST = 512
_LINE_BYTES = 256


def date_header() -> bytes:
    """Return the field line of `date` for now; it is formatted at most once a second."""
    second = int(time.time())
    if second != _date.second:
        _date.second = second
        _date.line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        _date.with_server = _date.line + _SERVER
    return _date.line


class ResponseEncoder:
    """One response.

    Args:
        method: the request's; a response to HEAD has no body, whatever the application sends.
        version: the client's, `"1.0"` or `"1.1"`.
        keep_alive: whether the connection could serve another request; set it to False until the head is out.
    """

    __slots__ = (
        "_chunked",
        "_dated",
        "_left",
        "_length",
        "_lines",
        "_mute",
        "_served",
        "_version",
        "complete",
        "head_sent",
        "keep_alive",
        "method",
        "started",
        "status",
    )

    def __init__(self, method: str, version: str, *, keep_alive: bool) -> None:
        self.method = method
        self._version = version
        self.keep_alive = keep_alive and version == "1.1"
        self.started = self.head_sent = self.complete = False
        self.status = 0
        self._chunked = self._mute = self._dated = self._served = False
        self._lines: list[bytes] = []
        """The head, until it is out."""
        self._length: int | None = None
        self._left = _UNFRAMED

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the head; its bytes come with the first body piece.

        Raises:
            ResponseError: if it was given before, the status is informational, or a field could not be sent safely
                (a line break in a value would let it forge fields, or a whole response).
        """
        if self.started:
            raise ResponseError("the response was started twice")
        if not 200 <= status <= 999:
            raise ResponseError(f"status {status!r} is not a final one")
        self._length = None
        self._dated = self._served = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            line = _LINES.get((name, value))
            lines.append(self._field(name, value, status) if line is None else line)
        stamp = date_header()
        if self._dated or self._served:
            stamp = (b"" if self._dated else stamp) + (b"" if self._served else _SERVER)
        else:
            stamp = _date.with_server
        lines.append(stamp)
        self._lines = lines
        self._mute = status in _BODILESS or self.method == "HEAD"
        self.status = status
        self.started = True

    def _field(self, name: bytes, value: bytes, status: int) -> bytes:
        """Check one field and return its line; nothing, where it is ours to say."""
        low = name.lower()
        if low == b"content-length":
            self._length = self._own_length(self._length, value)
            return b"" if status == 204 else b"%b: %b\r\n" % (name, value)
        if low in _HOP_BY_HOP:
            if low == b"connection" and b"close" in value.lower():
                self.keep_alive = False
            return b""
        line = b"%b: %b\r\n" % (name, value)
        if b":" in name:  # the check would take the rest for the value
            raise ResponseError("a header field has a colon in its name")
        if _FIELD.fullmatch(line) is None:
            raise ResponseError("a header field has characters that could forge another one")
        if low == b"date":
            self._dated = True
        elif low == b"server":
            self._served = True
        elif len(line) <= _LINE_BYTES:
            if len(_LINES) >= _LINES_MOST:  # some values never come again; the others are soon back
                _LINES.clear()
            _LINES[bytes(name), bytes(value)] = line
        return line

    def body(self, data: bytes, *, more: bool) -> bytes:
        """Return the bytes to send for a piece of the body, with the head before the first one; perhaps none.

        Raises:
            ResponseError: if nothing was started, all was sent, or the body does not fit its content-length.
        """
        if not self.started or self.complete:
            raise ResponseError("a body before the start or after the end of the response")
        if not self.head_sent:
            return self._first(data, more=more)
        self.complete = not more
        if self._mute:
            return b""
        if self._chunked:
            if not data:
                return b"" if more else b"0\r\n\r\n"
            return b"%x\r\n%b\r\n" % (len(data), data) if more else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        if self._left != _UNFRAMED:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                self.complete = False
                raise ResponseError("the body does not have the length that content-length says")
        return data

    def _first(self, data: bytes, *, more: bool) -> bytes:
        """Return the head, and the first piece with it."""
        size = len(data)
        lines = self._lines
        body: tuple[bytes, ...] = (data,)
        if self._mute:
            body = ()
        elif self._length is not None:
            self._left = self._length - size
            if self._left < 0 or (self._left and not more):
                raise ResponseError("the body does not have the length that content-length says")
        elif not more:
            lines.append(b"content-length: %d\r\n" % size)
        elif self._version == "1.1":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
            body = (b"%x\r\n" % size, data, b"\r\n") if data else ()
        else:
            self.keep_alive = False
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        lines += body
        self._lines = []
        self.head_sent = True
        self.complete = not more
        return b"".join(lines)

    def _own_length(self, before: int | None, value: bytes) -> int:
        if _LENGTH.fullmatch(value) is None or before is not None:
            raise ResponseError("content-length is malformed or given twice")
        return int(value)
