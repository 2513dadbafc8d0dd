"""HTTP/1.1 requests from bytes, as far as the gateways under test write them.  No I/O.

It trusts its peer: what a strict parser must refuse is not looked for, since it would be paid for with every request.
"""

import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


@dataclass(slots=True)
class Request:
    """One request, complete.

    Args:
        method: `POST`, say.
        path: with its query, if it has one.
        body: without its framing.
        close: whether the peer wants the connection closed after the answer.
    """

    method: bytes
    path: bytes
    body: bytes
    close: bool


class RequestParser:
    """Bytes in, requests out; they may be cut anywhere and follow each other closely."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 0  # not worth looking again before the buffer is this long

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that `data` completes."""
        self._buffer += data
        found = []
        while len(self._buffer) >= self._wanted and (request := self._next()) is not None:
            found.append(request)
        return found

    def _next(self) -> Request | None:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(buffer[:end])
        start = end + 4
        if (length := _LENGTH.search(head)) is not None:
            stop = start + int(length[1])
            self._wanted = stop
            if len(buffer) < stop:
                return None
            body = bytes(buffer[start:stop])
        elif _CHUNKED.search(head) is not None:
            whole = _unchunk(buffer, start)
            if whole is None:
                return None
            body, stop = whole
        else:
            body, stop = b"", start
        del buffer[:stop]
        self._wanted = 0
        method, path, _ = head.split(b" ", 2)
        return Request(method, path, body, _CLOSE.search(head) is not None)


def _unchunk(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    pieces = []
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(bytes(buffer[at:line]).partition(b";")[0], 16)
        at = line + 2
        if len(buffer) < at + size + 2:
            return None
        if size == 0:
            return b"".join(pieces), at + 2
        pieces.append(bytes(buffer[at : at + size]))
        at += size + 2
