"""Server-sent events: bytes in, payloads out.  No I/O, no clock, no JSON.

Lines may end in LF, CRLF or CR and bytes may be cut anywhere, between CR and LF or inside a character: payloads stay
bytes, so no character is ever looked at before it is whole.  (WHATWG HTML, section "Server-sent events".)
"""

from illm.errors import GatewayError, Kind

MAX_EVENT = 16 * 1024 * 1024
"""Bytes; beyond it a stream is not believed to be one."""

_BOM = b"\xef\xbb\xbf"


class SSEDecoder:
    """The events of one stream.

    Args:
        limit: the most bytes that one event may have.
    """

    __slots__ = ("_after_cr", "_data", "_first", "_limit", "_pieces", "_size")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the line that is not yet complete
        self._data: list[bytes] = []  # lines of the event that is not yet complete
        self._size = 0  # of both, in bytes
        self._after_cr = False
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the stream; return the payloads that it completes, several `data:` lines joined by LF.

        Raises:
            GatewayError: `UPSTREAM` where an event is larger than the limit.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        done: list[bytes] = []
        if b"\n" in data:
            *lines, rest = b"".join((*self._pieces, data)).split(b"\n")
            self._pieces = [rest]
            for line in lines:
                self._take(line, done)
            self._size = len(rest) + sum(map(len, self._data))
        else:
            self._pieces.append(data)
            self._size += len(data)
        if self._size > self._limit:
            raise GatewayError(Kind.UPSTREAM, f"The backend sent an event larger than {self._limit} bytes")
        return done

    def close(self) -> list[bytes]:
        """Return what an end without an empty line left behind: not every server ends its last event properly."""
        done: list[bytes] = []
        self._take(b"".join(self._pieces), done)
        self._take(b"", done)
        self._pieces = []
        return done

    def _take(self, line: bytes, done: list[bytes]) -> None:
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if not line:
            if self._data:
                done.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
            return
        name, _, value = line.partition(b":")
        if name == b"data":  # comments have an empty name; `event`, `id` and `retry` say nothing here
            self._data.append(value.removeprefix(b" "))
