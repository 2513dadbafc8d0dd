"""Chunked bodies as a client reads them: framing checked and taken off in one walk.

Nothing that RFC 9112 lets a recipient repair passes: a body whose end two readers could place differently may be made
to look complete.  Extensions and trailers are checked and dropped.
"""

import re

from illm.http11.framing import FIELD_LINES

# No sign, no `0x`, no space, and fifteen digits at most.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}(?:\r|;[\t\x20-\x7e\x80-\xff]*+\r?)?")
_TRAILERS = re.compile(FIELD_LINES + rb"\r\n")
_TRAILERS_BAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]|\r\n\r\n")
_LINE_BYTES = 4 * 1024
_TRAILER_BYTES = 16 * 1024


class _Broken(Exception):  # noqa: N818  # control flow inside this file
    pass


class ChunkDecoder:
    """One chunked body.

    Attributes:
        done: the last chunk and the trailers have been read.
        rest: what came after them.
        fault: why the framing is broken, if it is; nothing more can be read then.
    """

    __slots__ = ("_ends", "_held", "_inside", "_trailers", "done", "fault", "rest")

    def __init__(self) -> None:
        self._held = b""
        self._inside = 0
        """Bytes left of the current chunk's data."""
        self._ends = False
        """Whether the CRLF that closes a chunk's data comes next."""
        self._trailers = False
        self.done = False
        self.rest = b""
        self.fault: str | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they were sent, cut anywhere; return the data among them, up to a fault if there is one."""
        if self._held:
            data, self._held = self._held + data, b""
        parts: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._inside:
                parts.append(data[at : at + self._inside])
                at += len(parts[-1])
                self._inside -= len(parts[-1])
                self._ends = not self._inside
                continue
            try:
                step = self._end(data, at) if self._trailers else self._line(data, at)
            except _Broken as fault:
                self.fault = str(fault)
                break
            if not step:
                self._held = data[at:]
                break
            at += step
        if self.done:
            self.rest = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, data: bytes, at: int) -> int:
        if self._ends:
            here = data[at : at + 2]
            if not b"\r\n".startswith(here):
                raise _Broken("a chunk does not end where its size says")
            if len(here) < 2:
                return 0
            self._ends = False
            return 2
        match = _SIZE.match(data, at)
        if match is None:
            if _SIZE_BEGUN.fullmatch(data, at) is None or len(data) - at > _LINE_BYTES:
                raise _Broken("malformed chunk size")
            return 0
        self._inside = int(match[1], 16)
        self._trailers = not self._inside
        return match.end() - at

    def _end(self, data: bytes, at: int) -> int:
        match = _TRAILERS.match(data, at)
        if match is not None:
            self.done = True
            return match.end() - at
        if _TRAILERS_BAD.search(data, at) or data[at : at + 1] in (b" ", b"\t", b":"):
            raise _Broken("malformed trailer")
        if len(data) - at > _TRAILER_BYTES:
            raise _Broken("trailers too large")
        return 0
