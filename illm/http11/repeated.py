"""A connection's heads are mostly the same but for one number: what was checked once is not checked again."""

from illm.http11.events import Head
from illm.http11.limits import MessageLimits

_FIELD = b"\r\ncontent-length:"
_DIGITS = 18


class RepeatedHead:
    """Recognises heads that differ from a checked one in nothing but the digits of content-length.

    Such a head is well formed because the first was: digits stand where digits stood, and the limits that they could
    reach are looked at.  Nothing is shared between connections.
    """

    __slots__ = ("_after", "_before", "_head", "_place", "_start")

    def __init__(self, block: bytes, start: int, head: Head) -> None:
        self._before = block[:start]
        self._start = start
        self._after = block[start + len(_value(head, place := _place(head))) :]
        self._place = place
        self._head = head._replace(headers=head.headers.copy())  # the application may write to the one it gets

    def match(self, data: bytes, limits: MessageLimits) -> tuple[Head, int] | None:
        """Return the head that `data` begins with, and its size; None if it has to be looked at."""
        start = self._start
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r\n", start, start + _DIGITS + 2)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        length = int(digits)
        if length > limits.body_bytes:
            return None
        method, target, version, headers, _, keep_alive, expect_continue = self._head
        headers = headers.copy()
        headers[self._place] = (b"content-length", digits)
        return Head(method, target, version, headers, length, keep_alive, expect_continue), end + len(self._after)


def remember(block: bytes, head: Head, limits: MessageLimits) -> RepeatedHead | None:
    """Return what recognises heads like this well-formed one; None where there is nothing to recognise."""
    start = block.lower().find(_FIELD) + len(_FIELD)
    if start < len(_FIELD) or len(block) + _DIGITS > limits.head_bytes:
        return None
    while block[start] in b" \t":
        start += 1
    return RepeatedHead(block, start, head)


def _place(head: Head) -> int:
    return next(place for place, (name, _) in enumerate(head.headers) if name == b"content-length")


def _value(head: Head, place: int) -> bytes:
    return head.headers[place][1]
