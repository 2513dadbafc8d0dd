"""What the first bytes of an image say: which kind it is, and how large it would be once decoded.

Nothing is decoded, so nothing can explode here.  The parsers are as strict as decoders are at most: where a lenient
one might find a size that we did not see (bytes between JPEG segments, a second frame header), the image is refused.
An animation counts as its canvas; what its frames cost together is for the backend to bound.

Sources: PNG (W3C, third edition) 11.2.1; JPEG (ITU T.81) annex B; GIF89a; WebP (RFC 9649) and VP8 (RFC 6386) 9.1.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from illm.media.refusals import refused

MAX_SEGMENTS = 2048
"""Of a JPEG before its scan: embedded colour profiles and previews take a few hundred at most."""

MAX_BLOCKS = 65536
"""Of a GIF before its first frame."""


class Picture(NamedTuple):
    """What an image is: its media type, and its size in pixels."""

    media_type: str
    width: int
    height: int


class _DamagedError(Exception):
    """The bytes end before the size is known, or say what cannot be."""


def inspect(data: bytes) -> Picture:
    """Look at an image's header.  Takes bounded time, whatever the bytes are.

    Raises:
        GatewayError: it is no PNG, JPEG, GIF or WebP, or its header is broken.
    """
    for magic, media_type, measure in _KINDS:
        if magic.match(data):
            try:
                width, height = measure(data)
            except (struct.error, IndexError, _DamagedError):
                width = height = 0
            if not (width and height):
                raise refused("the image is damaged, or has been cut off")
            return Picture(media_type, width, height)
    raise refused("expected a PNG, JPEG, GIF or WebP image")


def _png(data: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR" or len(data) < 33 or max(width, height) >= 1 << 31:
        raise _DamagedError
    return width, height


_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE}
_SCAN, _IMPOSSIBLE = 0xDA, frozenset({0x00, 0xD8, 0xD9})


def _jpeg(data: bytes) -> tuple[int, int]:
    size, at = None, 2
    for _ in range(MAX_SEGMENTS):
        if data[at] != 0xFF:
            raise _DamagedError
        at += 1
        marker = data[at]
        if marker == 0xFF or marker in _STANDALONE:  # the former is padding, and begins the next one
            at += marker != 0xFF
            continue
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        if marker in _IMPOSSIBLE or length < 2 or at + 1 + length > len(data):
            raise _DamagedError
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            if size is not None or length < 8:
                raise _DamagedError
            height, width = struct.unpack_from(">HH", data, at + 4)
            size = width, height
        at += 1 + length
    else:
        raise _DamagedError
    if size is None:
        raise _DamagedError
    return size


_EXTENSION, _FRAME = 0x21, 0x2C


def _gif(data: bytes) -> tuple[int, int]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, inside = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0), False
    for _ in range(MAX_BLOCKS):
        first = data[at]
        if inside:  # an extension is a kind, then blocks that each begin with their length, then an empty one
            at, inside = at + 1 + first, first != 0
        elif first == _EXTENSION:
            at, inside = at + 2, True
        elif first == _FRAME:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
            if not (frame_width and frame_height):
                break
            # A frame may be larger than its screen, and decoders then enlarge the screen.
            return max(width, left + frame_width), max(height, top + frame_height)
        else:
            break
    raise _DamagedError


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if len(data) < 30:
        raise _DamagedError
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and not data[20] & 1 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _DamagedError


_KINDS: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], tuple[int, int]]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", _png),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _jpeg),
    (re.compile(rb"GIF8[79]a"), "image/gif", _gif),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", _webp),
)
