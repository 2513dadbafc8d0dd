"""Chunked bodies as a client reads them: framing checked and taken off in one walk.

Nothing that RFC 9112 lets a recipient repair passes: a body whose end two readers could place differently may be made
to look complete.  Extensions and trailers are checked and dropped.

Every token of a stream passes here, nearly always as whole chunks in one read: those take a short way, the walk is for
the rest and the only place that knows the rules.
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

_SIZES: dict[bytes, int] = {}
"""Sizes that the walk has read already, by their digits; sizes of tokens repeat."""
_SMALL = 0xFFFF
_DIGITS = 4


class _Broken(Exception):  # noqa: N818  # control flow inside this file
    pass


class ChunkDecoder:
    """One chunked body.

    Attributes:
        done: the last chunk and the trailers have been read.
        rest: what came after them.
        fault: why the framing is broken, if it is; nothing more can be read then.
    """

    __slots__ = ("_between", "_ends", "_held", "_inside", "_trailers", "done", "fault", "rest")

    def __init__(self) -> None:
        self._held = b""
        self._inside = 0
        """Bytes left of the current chunk's data."""
        self._ends = False
        """Whether the CRLF that closes a chunk's data comes next."""
        self._trailers = False
        self._between = True
        """Whether a size line comes next, and nothing of it is held."""
        self.done = False
        self.rest = b""
        self.fault: str | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they were sent, cut anywhere; return the data among them, up to a fault if there is one."""
        if not self._between:
            return self._walk(data)
        at, whole = 0, len(data)
        parts: list[bytes] | None = None
        while True:
            line = data.find(b"\r\n", at, at + _DIGITS + 2)
            size = _SIZES.get(data[at:line]) if line > 0 else None
            if size is None:
                break
            line += 2
            end = line + size
            if data[end : end + 2] != b"\r\n":
                break
            at = end + 2
            if at == whole:
                if parts is None:
                    return data[line:end]
                parts.append(data[line:end])
                return b"".join(parts)
            if parts is None:
                parts = []
            parts.append(data[line:end])
        if not at:
            return self._walk(data)
        rest = self._walk(data[at:])
        return b"".join((*parts, rest)) if parts is not None else rest

    def _walk(self, data: bytes) -> bytes:
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
        self._between = not (self._held or self._inside or self._ends or self._trailers or self.fault)
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
        digits = match[1]
        self._inside = int(digits, 16)
        self._trailers = not self._inside
        if 0 < self._inside <= _SMALL and digits == b"%x" % self._inside:  # one way to write it: the table is bounded
            _SIZES[digits] = self._inside
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
