"""The strict check of a message head: one pass over the raw bytes, before any engine sees them.

It yields all there is to know of the head, so an engine is only a second reader (see `engine`).

Two parsers that disagree about where a message ends are a request-smuggling hole, so nothing ambiguous passes: what
RFC 9112 lets a recipient repair is refused here.  One possessive regular expression (linear, no backtracking) accepts
exactly the well-formed heads; only when it fails is the reason looked for.  Body bytes are not its business.
"""

import re

from illm.http11.events import Head, Refusal
from illm.http11.limits import MessageLimits

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINE = _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n"
FIELD_LINES = rb"(?:" + FIELD_LINE + rb")*+"
"""Zero or more field lines; a line that folds, lacks its colon or holds a control character stops the match."""

_HEAD = re.compile(rb"(" + _TOKEN + rb"++) ([!-\"$-~]++) HTTP/([0-9]\.[0-9])\r\n(" + FIELD_LINES + rb")\r\n")
_VERSIONS = {b"1.1": "1.1", b"1.0": "1.0"}
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))
_HOST = re.compile(rb"[a-z0-9\-._~%!$&'()*+,;=:\[\]]*+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
# What can be refused before the head is complete: it would otherwise hold the connection until its deadline.
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")

_REASONS = (
    (re.compile(rb"(?<!\r)\n|\r(?!\n)"), "bare CR or LF in the head"),
    (re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "control character in the head"),
    (re.compile(rb"\r\n[ \t]"), "folded header field"),
    (re.compile(rb"\r\n[^\r\n:]*[ \t]:"), "space before the colon of a header field"),
    (re.compile(rb"\A" + _TOKEN + rb"+ [!-\"$-~]+ HTTP/[0-9]\.[0-9]\r\n"), "malformed header field"),
)
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))


def check_head(block: bytes, limits: MessageLimits) -> Head:
    """Check a complete head, from the request line to the empty line, both included, and take it apart.

    Raises:
        Refusal: 400 for anything malformed or ambiguous, and 413, 414, 417, 431, 501, 505.
    """
    match = _HEAD.fullmatch(block)
    if match is None:
        raise Refusal(400, _explain(block))
    method, target, version, lines = match.groups()
    if len(target) > limits.target_bytes:
        raise Refusal(414, "request target too long")
    if version not in _VERSIONS:
        raise Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise Refusal(501, "CONNECT is not supported")
    headers, found = _fields(lines)
    if len(headers) > limits.headers:
        raise Refusal(431, "too many header fields")
    modern = version == b"1.1"
    host = found.get(b"host")
    if host is None:
        if modern:
            raise Refusal(400, "missing host")
    elif _HOST.fullmatch(host) is None:
        raise Refusal(400, "malformed host")
    length = _length(found, limits, modern=modern)
    keep, waits = modern and _stays(found), modern and _waits(found)
    return Head(method.decode("ascii"), target, _VERSIONS[version], headers, length, keep, waits)


def _fields(lines: bytes) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """Return all fields of well-formed lines, and in lowercase those that framing depends on."""
    headers: list[tuple[bytes, bytes]] = []
    found: dict[bytes, bytes] = {}
    for line in lines[:-2].split(b"\r\n") if lines else ():
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()  # of white space only spaces and tabs can be there
        headers.append((name, value))
        if name not in _FRAMING:
            continue
        if name not in found:
            found[name] = value.lower()
        elif name in _ONCE:
            raise Refusal(400, f"{name.decode()} given more than once")
        else:
            found[name] += b"," + value.lower()
    return headers, found


def check_partial(head: bytearray, seen: int, limits: MessageLimits) -> None:
    """Check a head that is not complete yet; its first `seen` bytes were checked before.

    Raises:
        Refusal: if no continuation could make it acceptable.
    """
    if _NEVER.search(head, max(seen - 1, 0)):
        raise Refusal(400, _explain(bytes(head)))
    room = limits.target_bytes + 64  # the method, the version and two spaces
    if len(head) > room and head.find(b"\r\n", 0, room + 2) < 0:
        raise Refusal(414, "request line too long")
    if len(head) > limits.head_bytes:
        raise Refusal(431, "header fields too large")


def _length(found: dict[bytes, bytes], limits: MessageLimits, *, modern: bool) -> int | None:
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length")
    if coding is not None:
        if not modern:
            raise Refusal(400, "transfer-encoding in HTTP/1.0")
        if coding != b"chunked":
            raise Refusal(400, "the only transfer-encoding is chunked")
        if length is not None:
            raise Refusal(400, "content-length beside transfer-encoding")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Refusal(400, "malformed content-length")
    size = int(length)
    if size > limits.body_bytes:
        raise Refusal(413, "request body too large")
    return size


def _stays(found: dict[bytes, bytes]) -> bool:
    value = found.get(b"connection")
    # The common values without a split.
    return value is None or value == b"keep-alive" or b"close" not in [word.strip() for word in value.split(b",")]


def _waits(found: dict[bytes, bytes]) -> bool:
    value = found.get(b"expect")
    if value is not None and value != b"100-continue":
        raise Refusal(417, "the only expectation is 100-continue")
    return value is not None


def _explain(block: bytes) -> str:
    *faults, (line, rest) = _REASONS
    for pattern, reason in faults:
        if pattern.search(block):
            return reason
    return rest if line.search(block) else "malformed request line"
