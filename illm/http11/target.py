"""The request target, taken apart."""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from illm.http11.events import Refusal

_ABSOLUTE = re.compile(rb"[hH][tT][tT][pP][sS]?://([^/?]++)(.*+)")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Target(NamedTuple):
    """`raw_path` is as sent, without the query; `path` decoded; `authority` only of an absolute form."""

    path: str
    raw_path: bytes
    query: bytes
    authority: bytes | None


def split_target(method: str, target: bytes) -> Target:
    """Split a request target of any form that a server may get (RFC 9112, 3.2) but CONNECT's.

    Raises:
        Refusal: 400 for another form, a broken escape, or a path that is not UTF-8.
    """
    # Few targets are asked for again and again; long ones would fill the memory and mostly carry something unique.
    return _split_known(method, target) if len(target) <= _KNOWN_BYTES else _split(method, target)


def _split(method: str, target: bytes) -> Target:
    authority = None
    if not target.startswith(b"/"):
        if target == b"*" and method == "OPTIONS":
            return Target("*", b"*", b"", None)
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refusal(400, "malformed request target")
        authority, target = absolute.group(1, 2)
        if not target.startswith(b"/"):
            target = b"/" + target
    raw_path, _, query = target.partition(b"?")
    if b"%" not in raw_path:
        return Target(raw_path.decode("ascii"), raw_path, query, authority)
    if _BAD_ESCAPE.search(raw_path):
        raise Refusal(400, "malformed escape in the path")
    try:
        return Target(unquote_to_bytes(raw_path).decode("utf-8"), raw_path, query, authority)
    except UnicodeDecodeError:
        raise Refusal(400, "the path is not UTF-8") from None


_KNOWN_BYTES = 128
_split_known = lru_cache(maxsize=256)(_split)
