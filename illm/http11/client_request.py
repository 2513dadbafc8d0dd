"""The client's side, outwards: a request whose body is complete, to the bytes that carry it."""

import re
from collections.abc import Iterable

from illm.http11.framing import FIELD_LINES

_FIELDS = re.compile(FIELD_LINES)
_LINE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ /[!-\"$-~]*")
_OURS = frozenset((b"connection", b"content-length", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"))
_BODILESS = (b"GET ", b"HEAD ")
_LARGE = 64 * 1024
"""Bytes of a body from which on a second write costs less than copying it."""


class RequestError(ValueError):
    """A request that could not be sent safely: its own text would change where it ends."""


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header fields as they go over the wire.

    Raises:
        RequestError: a name or value that could forge another field.
    """
    lines = [b"%b: %b\r\n" % field for field in fields]
    block = b"".join(lines)
    if _FIELDS.fullmatch(block) is None or block.count(b"\r\n") != len(lines):
        raise RequestError("a header field has characters that could forge another one")
    return block


def encode_head(method: str, target: str, fixed: bytes, fields: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the head of an HTTP/1.1 request but for its end, which `framed` writes; it may serve any number of them.

    Args:
        method, target: of the request line; the target in origin form, escaped already.
        fixed: fields that every request to this server carries, `host` among them, from `encode_fields`.
        fields: more of them; framing and connection are ours, and left out here.

    Raises:
        RequestError: text that could forge a field or a request.
    """
    if _LINE.fullmatch(line := f"{method} {target}") is None:
        raise RequestError("the request line has characters that could forge another one")
    if any(b":" in name for name, _ in fields):  # the check of the fields would take the rest for the value
        raise RequestError("a header field has a colon in its name")
    more = encode_fields(field for field in fields if field[0].lower() not in _OURS)
    return b"%b HTTP/1.1\r\n%b%b" % (line.encode("ascii"), fixed, more)


def framed(head: bytes, body: bytes) -> tuple[bytes, ...]:
    """Return a whole request as the pieces to write: mostly one, but a large body is not copied.

    Args:
        head: from `encode_head`.
        body: complete.
    """
    size = len(body)
    if not size and head.startswith(_BODILESS):
        return (b"%b\r\n" % head,)
    if size > _LARGE:
        return b"%bcontent-length: %d\r\n\r\n" % (head, size), body
    return (b"%bcontent-length: %d\r\n\r\n%b" % (head, size, body),)
