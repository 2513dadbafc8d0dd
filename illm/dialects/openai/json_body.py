"""Bytes to a checked JSON object, and a checked object to typed structures whose errors name the field.

The body is parsed once, by orjson; msgspec then converts the plain values, so a backend that relays the client's
own fields still has them.  What may fail here fails as `GatewayError`, never as a parser's own exception.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import orjson

from illm.errors import GatewayError, Kind

MAX_DEPTH = 64
"""Objects and arrays within one another.  orjson reads deeper than it writes, and a body may have to be relayed."""

_MAX_MESSAGE = 400

_Wire = TypeVar("_Wire", bound=msgspec.Struct)

# What msgspec says, in words of JSON.
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_PATH = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_QUOTED = re.compile(r"`([^`]*)`")
_WORD = re.compile(r"\w+")


def decode_body(raw: bytes) -> dict[str, Any]:
    """Decode a request body.

    Args:
        raw: the whole body, UTF-8 JSON.

    Returns:
        The JSON object.  Integers beyond 64 bits have become floats, which no integer field accepts.

    Raises:
        GatewayError: `INVALID_REQUEST` where the body is empty, is not JSON (NaN and lone surrogates are not), is
            not an object, or nests more than `MAX_DEPTH` deep.
    """
    body = load_object(raw)
    check_depth(raw, body)
    return body


def load_object(raw: bytes) -> dict[str, Any]:
    """Decode as `decode_body` does, but leave the depth to `check_depth`: a type may have bounded it already."""
    if not raw or raw.isspace():
        raise GatewayError(Kind.INVALID_REQUEST, "The request body is empty; a JSON object is needed.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise GatewayError(Kind.INVALID_REQUEST, f"The request body is not valid JSON: {exc}.") from None
    if not isinstance(body, dict):
        raise GatewayError(Kind.INVALID_REQUEST, "The request body must be a JSON object.")
    return body


def check_depth(raw: bytes, body: dict[str, Any]) -> None:
    """Raise `GatewayError` where a decoded body nests more than `MAX_DEPTH` deep."""
    # Counting brackets is enough for nearly every body, and much faster than walking one with many token ids.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise GatewayError(Kind.INVALID_REQUEST, f"The request body nests more than {MAX_DEPTH} levels deep.")


def convert(body: Mapping[str, Any], wire: type[_Wire]) -> _Wire:
    """Convert a decoded object to a msgspec structure; a field that is null counts as absent.

    Args:
        body: the decoded JSON object.
        wire: the structure; optional fields have defaults, so that null need not be in their types.

    Raises:
        GatewayError: `INVALID_REQUEST` with `param` as a dotted path (`messages[0].content`).
    """
    try:
        return msgspec.convert({name: value for name, value in body.items() if value is not None}, wire)
    except msgspec.ValidationError as exc:
        raise invalid_field(str(exc)) from None


def invalid_field(complaint: str) -> GatewayError:
    """Turn a complaint of msgspec's into an error that names the field."""
    found = _PATH.fullmatch(complaint)
    what, path = (found["what"], found["path"] or "$") if found else (complaint, "$")
    missing = _MISSING.fullmatch(what)
    if missing:
        path = f"{path}.{missing['name']}"
        what = "this field is required"
    else:
        what = _QUOTED.sub(lambda part: _WORD.sub(lambda word: _TYPES.get(word[0], word[0]), part[1]), what)
        what = what[:1].lower() + what[1:]
    param = path.removeprefix("$").removeprefix(".") or None
    return invalid(what, param=param)


def invalid(what: str, *, param: str | None) -> GatewayError:
    """Make the one error a wrong value gets: `param: what`, cut to a bearable length."""
    message = what if param is None else f"{param}: {what}"
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}..."
    return GatewayError(Kind.INVALID_REQUEST, f"{message.rstrip('.')}.", param=param)


def _deeper_than(value: object, limit: int) -> bool:
    """Say whether containers nest deeper than `limit`, level by level: recursion could be made to overflow."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)  # type: ignore[attr-defined]
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
