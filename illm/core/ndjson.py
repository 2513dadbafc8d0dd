"""Newline-delimited JSON: bytes in, lines out.  No I/O, no clock, no JSON.

Lines stay bytes, so no character is ever looked at before it is whole, wherever the network cut it.
"""

from illm.errors import GatewayError, Kind

MAX_LINE = 16 * 1024 * 1024
"""Bytes; beyond it a stream is not believed to be one."""


class NDJSONDecoder:
    """The lines of one stream.

    Args:
        limit: the most bytes that one line may have.
    """

    __slots__ = ("_limit", "_pieces", "_size")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the line that is not yet complete
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the stream; return the lines that it completes, without their ends and without empty ones.

        Raises:
            GatewayError: `UPSTREAM` where a line is longer than the limit.
        """
        if b"\n" not in data:
            self._keep(data)
            return []
        *lines, rest = b"".join((*self._pieces, data)).split(b"\n")
        for line in lines:
            self._check(len(line))
        self._pieces, self._size = [], 0
        self._keep(rest)
        return [line for line in map(bytes.strip, lines) if line]

    def close(self) -> list[bytes]:
        """Return a last line that no newline ended: a lone JSON object often comes so."""
        line = b"".join(self._pieces).strip()
        self._pieces, self._size = [], 0
        return [line] if line else []

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        self._check(self._size)
        self._pieces.append(data)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise GatewayError(Kind.UPSTREAM, f"The backend sent a line longer than {self._limit} bytes")
