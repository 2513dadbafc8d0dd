"""The strict check of a chunked body's framing: size lines, terminators, trailers; the data comes out on the way."""

import re

from illm.http11.events import Refusal
from illm.http11.framing import FIELD_LINES
from illm.http11.limits import MessageLimits

# No sign, no `0x`, no space, and fifteen digits at most: more than any body, and no engine's integer overflows.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,15}(?:\r|;[\t\x20-\x7e\x80-\xff]*+\r?)?")
_TRAILERS = re.compile(FIELD_LINES + rb"\r\n")
_TRAILERS_BAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")


class ChunkCheck:
    """Walks over one chunked body.

    `take` is given a buffer that begins where the last call stopped and says how many of its bytes are checked and
    may go to the engine; `pieces` returns the data among them, and `done` is set once the last of them is the
    message's end.
    """

    __slots__ = ("_extensions", "_inside", "_limits", "_pieces", "_total", "_trailers", "done")

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._inside = 0
        """Bytes left of the current chunk, its CRLF included; 0 before a size line."""
        self._total = self._extensions = 0
        self._trailers = False
        self._pieces: list[bytes] = []
        self.done = False

    def pieces(self) -> bytes:
        """Return the data that was taken since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take(self, buffer: bytes) -> int:
        """Return how many leading bytes of `buffer` are well framed.

        Raises:
            Refusal: 400 for a framing error, 413 and 431 for what is too large.
        """
        at = 0
        while at < len(buffer) and not self.done:
            if self._trailers:
                step = self._end(buffer, at)
            elif self._inside:
                step = self._data(buffer, at)
            else:
                step = self._size(buffer, at)
            if not step:
                break
            at += step
        return at

    def _size(self, buffer: bytes, at: int) -> int:
        match = _SIZE.match(buffer, at)
        if match is None:
            if _SIZE_BEGUN.fullmatch(buffer, at) is None:
                raise Refusal(400, "malformed chunk size")
            if len(buffer) - at > self._limits.chunk_ext_bytes:
                raise Refusal(400, "chunk extensions too large")
            return 0
        self._extensions += len(match[2] or b"")
        if self._extensions > self._limits.chunk_ext_bytes:
            raise Refusal(400, "chunk extensions too large")
        size = int(match[1], 16)
        self._total += size
        if self._total > self._limits.body_bytes:
            raise Refusal(413, "request body too large")
        if size:
            self._inside = size + 2
        else:
            self._trailers = True
        return match.end() - at

    def _data(self, buffer: bytes, at: int) -> int:
        end = min(at + self._inside, len(buffer))
        left = self._inside - (end - at)
        # The two bytes after the data, as far as they are here.
        tail = buffer[max(at, at + self._inside - 2) : end]
        if tail != b"\r\n"[2 - min(self._inside, 2) :][: len(tail)]:
            raise Refusal(400, "chunk does not end where its size says")
        if data := buffer[at : min(at + self._inside - 2, end)] if self._inside > 2 else b"":
            self._pieces.append(data)
        self._inside = left
        return end - at

    def _end(self, buffer: bytes, at: int) -> int:
        match = _TRAILERS.match(buffer, at)
        if match is not None and match.end() - at <= self._limits.head_bytes:
            self.done = True
            return match.end() - at
        if _TRAILERS_BAD.search(buffer, at) or buffer.find(b"\r\n\r\n", at) >= 0 or buffer[at : at + 1] in b" \t:":
            raise Refusal(400, "malformed trailer")
        if len(buffer) - at > self._limits.head_bytes:
            raise Refusal(431, "trailers too large")
        return 0
