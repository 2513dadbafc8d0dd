"""HTTP/1.1 requests from bytes, as far as the gateways under test write them.  No I/O.

It trusts its peer: what a strict parser must refuse is not looked for, since it would be paid for with every request.
"""

import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

LARGE = 1 << 18
"""Bytes of a message above which its middle is not kept."""


@dataclass(slots=True)
class Request:
    """One request, complete.

    Args:
        method: `POST`, say.
        path: with its query, if it has one.
        body: without its framing; of a large one only its two ends, put together.
        size: bytes of all of it.
        close: whether the peer wants the connection closed after the answer.
    """

    method: bytes
    path: bytes
    body: bytes
    size: int
    close: bool


class RequestParser:
    """Bytes in, requests out; they may be cut anywhere and follow each other closely."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # joined only when they may be a whole request: a large one comes in many
        self._held = 0
        self._wanted = 0
        self._dropped = 0  # of the middle of a large body, which nobody reads: memory is what it would cost most

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that `data` completes."""
        self._pieces.append(data)
        self._held += len(data)
        found: list[Request] = []
        if self._held < self._wanted:
            # The first may be a head by itself; what is looked for stands at the beginning of the body.
            if self._wanted > LARGE and len(self._pieces) > 4:
                self._dropped += len(self._pieces.pop(-3))
            return found
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        start = self._wanted = 0
        while start < len(buffer) and (whole := self._next(buffer, start)) is not None:
            request, start = whole
            found.append(request)
            self._wanted = self._dropped = 0
        rest = buffer[start:] if start else buffer
        self._pieces, self._held = ([rest] if rest else []), len(rest)
        return found

    def _next(self, buffer: bytes, start: int) -> tuple[Request, int] | None:
        """Return a request and where the next begins; if it is not whole, remember how much is needed at least."""
        end = buffer.find(b"\r\n\r\n", start)
        if end < 0:
            return None
        head = buffer[start:end]
        body_start = end + 4
        if (length := _LENGTH.search(head)) is not None:
            size = int(length[1])
            stop = body_start + size - self._dropped
            if len(buffer) < stop:
                self._wanted = stop - start
                return None
            body = buffer[body_start:stop]
        elif _CHUNKED.search(head) is not None:
            whole = _unchunk(buffer, body_start)
            if whole is None:
                return None
            body, stop = whole
            size = len(body)
        else:
            body, stop, size = b"", body_start, 0
        method, path, _ = head.split(b" ", 2)
        return Request(method, path, body, size, _CLOSE.search(head) is not None), stop


def _unchunk(buffer: bytes, at: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(buffer[at:line].partition(b";")[0], 16)
        at = line + 2
        if len(buffer) < at + size + 2:
            return None
        if size == 0:
            return b"".join(pieces), at + 2
        pieces.append(buffer[at : at + size])
        at += size + 2
