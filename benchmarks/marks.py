"""What every answer of a stand-in carries, and every client looks for: which token, of which request, sent when.

A mark is plain ASCII without a character that JSON escapes, so it survives every translation between dialects: it is
searched in the raw bytes, whatever stands around it.  Its length does not vary.
"""

import re
from dataclasses import dataclass

TAG = re.compile(rb"tag:([0-9a-z]{12}):")
"""What a request says once, and every mark of its answer repeats."""

_MARK = re.compile(rb"@(\d{6}):(\d{20}):(\d{20}):([0-9a-z]{12})@")

MARK_BYTES = 6 + 20 + 20 + 12 + 5


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark as it was found.

    Args:
        index: which token of the answer, from 0.
        received: when the stand-in had the whole request, ns on the machine's monotonic clock.
        sent: when the stand-in sent this token, on the same clock.
        tag: the request's.
        end: where in the body the mark ends, bytes.
    """

    index: int
    received: int
    sent: int
    tag: bytes
    end: int


def write_mark(index: int, received: int, sent: int, tag: bytes) -> bytes:
    """Return a mark of `MARK_BYTES` bytes; the arguments are `Mark`'s."""
    return b"@%06d:%020d:%020d:%s@" % (index, received, sent, tag)


def find_marks(body: bytes) -> list[Mark]:
    """Return all the marks of a body, in order."""
    return [Mark(int(found[1]), int(found[2]), int(found[3]), found[4], found.end()) for found in _MARK.finditer(body)]


def find_tag(body: bytes | bytearray) -> bytes | None:
    """Return the tag of a request's body; None where it has none."""
    found = TAG.search(body)
    return found[1] if found is not None else None


def tag_text(tag: bytes) -> str:
    """Return what a request must say to get `tag` (12 of 0-9a-z) back."""
    return f"tag:{tag.decode()}:"


def tag_number(tag: bytes) -> int:
    """Return the number that stands for a tag where only a number is carried on."""
    return int(tag, 36) % 1_000_000_007
