"""Images that came by value: data URLs and bare base64, read; and the one form that every server reads, written.

Read with what RFC 2397 and browsers allow: any case, any parameters, percent-escapes, line breaks, padding left away.
What is not in base64's alphabet is refused, not skipped.
"""

import re
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterator
from string import ascii_letters, digits
from urllib.parse import unquote_to_bytes

from illm.core.requests import Image
from illm.errors import GatewayError
from illm.media.dimensions import inspect
from illm.media.policy import ImagePolicy
from illm.media.refusals import refused

_HEAD = re.compile(r"data:(?P<kind>[^,]{0,512}),", re.IGNORECASE)
_BASE64 = re.compile(r";[ ]*base64[ ]*\Z", re.IGNORECASE)
_BLANKS = b" \t\r\n\f"
_ESCAPES = (("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%0D", ""), ("%0A", ""), ("%20", ""))

MAX_ESCAPED = 1 << 20
"""Characters of a data URL that is not base64.  Decoding escapes costs much more memory than there are characters."""
_WRITTEN = re.compile(r"data:(image/[a-z]+);base64,")
_ALPHABET = (ascii_letters + digits + "+/").encode()
_HEADER = 1 << 17
"""Characters of base64 that hold the header of most images."""
_SLICE = 3 << 17  # bytes or characters at once, so that a thread at this gives the others their turns


def is_remote(image: Image) -> bool:
    """Tell whether an image still has to be fetched."""
    return image.base64 is None and (image.url or "")[:5].lower() != "data:"


def value_size(image: Image) -> int:
    """Return about how many characters an image by value has; an upper bound of its bytes."""
    return len(image.url or "") if image.base64 is None else len(image.base64)


def is_written(image: Image, policy: ImagePolicy) -> int | None:
    """Tell whether an image is already what `write_data_url` makes of it; most clients write nothing else.

    All of it is looked at, but only its header decoded: decoding and encoding the rest costs six times as much.

    Returns:
        how many bytes it has; None where it has to be read and written anew, or is wrong.
    """
    url = image.url or ""
    head = _WRITTEN.match(url)
    if image.base64 is not None or head is None or not url.isascii():
        return None
    at, padding = head.end(), url.count("=", len(url) - 2)
    characters = len(url) - at
    size = characters // 4 * 3 - padding
    if characters % 4 or not 0 < size <= policy.max_bytes:
        return None
    foreign = b"".join(url[i : i + _SLICE].encode().translate(None, _ALPHABET) for i in range(at, len(url), _SLICE))
    if foreign != b"=" * padding:
        return None
    try:
        picture = inspect(a2b_base64(url[at : at + _HEADER], strict_mode=True))
        if b2a_base64(a2b_base64(url[-4:], strict_mode=True), newline=False) != url[-4:].encode():
            return None  # bits that belong to no byte
    except (Error, GatewayError):  # a header that is longer, or none
        return None
    pixels = picture.width * picture.height
    return size if picture.media_type == head[1] and pixels <= policy.max_pixels else None


def read_value(image: Image, policy: ImagePolicy) -> bytes:
    """Decode an image that came by value.

    Raises:
        GatewayError: it is no data URL or base64, or is too large.
    """
    if image.base64 is not None:
        return _decoded(image.base64, policy)
    url = image.url or ""
    head = _HEAD.match(url)
    if head is None:
        raise refused("expected a data URL: data:image/png;base64,...")
    text = url[head.end() :]
    if _BASE64.search(head["kind"]):
        return _decoded(text, policy)
    if len(text) > MAX_ESCAPED:
        raise refused(f"a data URL that is not base64 may have at most {MAX_ESCAPED} characters")
    return _bounded(unquote_to_bytes(text), policy)


def write_data_url(data: bytes, policy: ImagePolicy) -> str:
    """Return an image as a data URL, after a look at what it is.

    Returns:
        `data:image/png;base64,...` in the standard alphabet, padded, without parameters or blanks.

    Raises:
        GatewayError: it is no image, or has too many pixels.
    """
    picture = inspect(data)
    if picture.width * picture.height > policy.max_pixels:
        raise refused(f"the image has more than {policy.max_pixels} pixels")
    pieces = [b2a_base64(data[at : at + _SLICE], newline=False) for at in range(0, len(data), _SLICE)]
    return f"data:{picture.media_type};base64,{b''.join(pieces).decode('ascii')}"


def too_large(policy: ImagePolicy) -> GatewayError:
    """Return the refusal of an image of too many bytes."""
    return refused(f"the image is larger than {policy.max_bytes} bytes")


def _bounded(data: bytes, policy: ImagePolicy) -> bytes:
    if len(data) > policy.max_bytes:
        raise too_large(policy)
    return data


def _decoded(text: str, policy: ImagePolicy) -> bytes:
    for escape, character in _ESCAPES if "%" in text else ():
        text = text.replace(escape, character).replace(escape.lower(), character)
    try:
        data = b"".join(_pieces(text, policy))
    except (Error, ValueError):  # the latter for what is not ASCII
        raise refused("expected an image as base64") from None
    if not data:
        raise refused("the image is empty")
    return data


def _pieces(text: str, policy: ImagePolicy) -> Iterator[bytes]:
    size, rest = 0, b""
    for at in range(0, len(text), _SLICE):
        rest += text[at : at + _SLICE].encode("ascii").translate(None, _BLANKS)
        # The last group stays behind: it may be the end, where alone there may be padding.
        whole = max(0, (len(rest) - 1) // 4 * 4)
        group, rest = rest[:whole], rest[whole:]
        size += len(group) // 4 * 3
        if b"=" in group:
            raise ValueError
        if size > policy.max_bytes:
            raise too_large(policy)
        yield a2b_base64(group, strict_mode=True)
    last = a2b_base64(rest.rstrip(b"=") + b"=" * (-len(rest.rstrip(b"=")) % 4), strict_mode=True)
    if size + len(last) > policy.max_bytes:
        raise too_large(policy)
    yield last
