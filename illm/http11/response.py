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

from illm.http11.framing import FIELD_LINES

_FIELDS = re.compile(FIELD_LINES)
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
    __slots__ = ("line", "second")

    def __init__(self) -> None:
        self.second = 0
        self.line = b""


_date = _Date()


def date_header() -> bytes:
    """Return the field line of `date` for now; it is formatted at most once a second."""
    second = int(time.time())
    if second != _date.second:
        _date.second = second
        _date.line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
    return _date.line


class ResponseEncoder:
    """One response.

    Args:
        method: the request's; a response to HEAD has no body, whatever the application sends.
        version: the client's, `"1.0"` or `"1.1"`.
        keep_alive: whether the connection could serve another request; set it to False until the head is out.
        server: what the `server` field says, if the application has none of its own.
    """

    __slots__ = (
        "_chunked",
        "_head",
        "_left",
        "_length",
        "_mute",
        "_server",
        "_version",
        "complete",
        "head_sent",
        "keep_alive",
        "method",
        "started",
        "status",
    )

    def __init__(self, method: str, version: str, *, keep_alive: bool, server: bytes = b"illm") -> None:
        self.method = method
        self._version = version
        self.keep_alive = keep_alive and version == "1.1"
        self._server = server
        self.started = self.head_sent = self.complete = False
        self.status = 0
        self._chunked = False
        self._mute = False
        self._head = b""
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
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        dated = served = False
        length: int | None = None
        for name, value in headers:
            low = name.lower()
            if b":" in low:  # the check below would take the rest for the value
                raise ResponseError("a header field has a colon in its name")
            if low in _HOP_BY_HOP:
                if low == b"connection" and b"close" in value.lower():
                    self.keep_alive = False
                continue
            if low == b"content-length":
                length = self._own_length(length, value)
                if status == 204:
                    continue
            elif low == b"date":
                dated = True
            elif low == b"server":
                served = True
            lines.append(b"%b: %b\r\n" % (name, value))
        fields = b"".join(lines[1:])
        if _FIELDS.fullmatch(fields) is None or fields.count(b"\r\n") != len(lines) - 1:
            raise ResponseError("a header field has characters that could forge another one")
        if not dated:
            lines.append(date_header())
        if not served:
            lines.append(b"server: %b\r\n" % self._server)
        self._head = b"".join(lines)
        self._length = length
        self._mute = self.method == "HEAD" or status in _BODILESS
        self.status = status
        self.started = True

    def body(self, data: bytes, *, more: bool) -> bytes:
        """Return the bytes to send for a piece of the body, with the head before the first one; perhaps none.

        Raises:
            ResponseError: if nothing was started, all was sent, or the body does not fit its content-length.
        """
        if not self.started or self.complete:
            raise ResponseError("a body before the start or after the end of the response")
        head = b"" if self.head_sent else self._framed_head(len(data), more=more)
        self.complete = not more
        if self._mute:
            return head
        if self._chunked:
            if not data:
                return head if more else head + b"0\r\n\r\n"
            return b"%b%x\r\n%b\r\n%b" % (head, len(data), data, b"" if more else b"0\r\n\r\n")
        if self._left != _UNFRAMED:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                self.complete = False
                raise ResponseError("the body does not have the length that content-length says")
        return head + data if head else data

    def _framed_head(self, size: int, *, more: bool) -> bytes:
        framing = b""
        if self._mute:
            pass
        elif self._length is not None:
            self._left = self._length
            if size > self._length or (not more and size < self._length):
                raise ResponseError("the body does not have the length that content-length says")
        elif not more:
            self._left = size
            framing = b"content-length: %d\r\n" % size
        elif self._version == "1.1":
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
        self.head_sent = True
        return b"%b%b%b\r\n" % (self._head, framing, b"" if self.keep_alive else b"connection: close\r\n")

    def _own_length(self, before: int | None, value: bytes) -> int:
        if _LENGTH.fullmatch(value) is None or before is not None:
            raise ResponseError("content-length is malformed or given twice")
        return int(value)
