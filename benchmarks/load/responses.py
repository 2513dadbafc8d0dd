"""HTTP/1.1 responses from bytes: as much as a client needs that sends one request at a time.  No I/O, no clock."""

from functools import lru_cache
from typing import NamedTuple


class MalformedResponseError(Exception):
    """What came is no response, or more than one."""


class Head(NamedTuple):
    """What a response's head says.

    Args:
        status: 200, say.
        length: bytes of the body; None where chunks or the connection's end say so.
        chunked: whether the body comes in chunks.
        keep: whether the connection may be used again.
    """

    status: int
    length: int | None
    chunked: bool
    keep: bool


@lru_cache(256)  # nginx says the same for a second; what carries an id each time is parsed each time
def read_head(head: bytes) -> Head:
    """Read a head, without the empty line that ends it.

    Raises:
        MalformedResponseError: it is none.
    """
    try:
        status = int(head[9:12])
    except ValueError:
        raise MalformedResponseError(f"no status line: {head[:40]!r}") from None
    lower = head.lower()
    length = None
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        end = lower.find(b"\r\n", at + 2)
        length = int(lower[at + 17 : end if end >= 0 else None])
    chunked = lower.find(b"\r\ntransfer-encoding: chunked") >= 0 or lower.find(b"\r\ntransfer-encoding:chunked") >= 0
    keep = lower.find(b"\r\nconnection: close") < 0 and (chunked or length is not None)
    return Head(status, length, chunked, keep)


class ResponseParser:
    """One response after the other.

    Attributes:
        head: of the current response, as soon as it is there.
        complete: whether the current response has ended; `reset` begins the next.
    """

    __slots__ = ("_buffer", "_left", "complete", "head")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with the next response."""
        self.head: Head | None = None
        self.complete = False
        self._buffer = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes, cut anywhere, and return what of the body they hold.

        Raises:
            MalformedResponseError: these are no bytes of a response, or come after its end.
        """
        if self.complete:
            raise MalformedResponseError(f"bytes after the end: {data[:40]!r}")
        if self.head is None:
            if self._buffer:
                data = self._buffer + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return b""
            self.head = head = read_head(data[:end])
            self._buffer, data = b"", data[end + 4 :]
            self._left = head.length or 0
            self.complete = head.length == 0
        if self.head.chunked:
            return self._chunks(data)
        if self.head.length is None:
            return data
        self._left -= len(data)
        if self._left <= 0:
            self.complete = True
            if self._left < 0:
                raise MalformedResponseError("the body is longer than its length")
        return data

    def end_of_connection(self) -> None:
        """Take the connection's end, which ends a body of neither length nor chunks.

        Raises:
            MalformedResponseError: it cuts the response off.
        """
        if self.head is None or self.head.chunked or self.head.length is not None:
            raise MalformedResponseError("the connection ended within a response")
        self.complete = True

    def _chunks(self, data: bytes) -> bytes:
        """Return the content of whole chunks and of the beginning of one that is not whole."""
        pieces = []
        while data:
            if self._left:  # of a chunk, with the CRLF after it
                piece = data[: self._left]
                data = data[self._left :]
                self._left -= len(piece)
                pieces.append(piece[: len(piece) - max(0, 2 - self._left)])
                continue
            if self._buffer:
                data, self._buffer = self._buffer + data, b""
            end = data.find(b"\r\n")
            if end < 0 or (data.startswith(b"0") and len(data) < end + 4):
                self._buffer = data
                break
            try:
                size = int(data[:end].partition(b";")[0], 16)
            except ValueError:
                raise MalformedResponseError(f"no chunk size: {data[:40]!r}") from None
            data = data[end + 2 :]
            if size == 0:
                self.complete = True
                if data != b"\r\n":
                    raise MalformedResponseError(f"bytes after the last chunk: {data[:40]!r}")
                break
            self._left = size + 2
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
