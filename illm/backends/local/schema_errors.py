"""Which part of a JSON schema cannot be had, and why, in words for the client."""

import json
from collections.abc import Mapping
from typing import Any

from illm.errors import GatewayError, Kind

BLANKS = {
    "whitespace_flexible": False,
    # One optional blank, as most models write: what is unbounded is filled until no token is left.
    "item_separator": ", ?",
    "key_separator": ": ?",
    # `oneOf` whose branches may overlap counts as `anyOf`.
    "coerce_one_of": True,
}
"""llguidance's options for JSON that a client's schema describes."""

_BELOW_ONE = ("items", "additionalProperties")
_BELOW_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_BELOW_NAMES = ("properties", "$defs", "definitions", "patternProperties")
_LOOKS = 200
_AROUND = "failed to compile JSON schema: "


def where(schema: Mapping[str, Any], param: str) -> str:
    """Return the path of the smallest part of a bad schema that is bad by itself.

    Args:
        schema: one that does not compile.
        param: its own path.
    """
    library = llguidance()
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    looks = _LOOKS

    def bad(part: Mapping[str, Any]) -> bool:
        whole = json.dumps(shared | dict(part))
        grammar = library.LLMatcher.grammar_from_json_schema(whole, overrides=BLANKS)
        return bool(library.LLMatcher.validate_grammar(grammar, limits=limits()))

    place, path = schema, param
    while True:
        for name, part in _parts(place):
            looks -= 1
            if looks < 0:
                return path
            if bad(part):
                place, path = part, f"{path}.{name}"
                break
        else:
            return path


def plain_reason(message: str) -> str:
    """Return the first line of what llguidance says, without where it stands in a grammar the client never saw."""
    message = message.partition(_AROUND)[2] or message
    lines = [line for line in message.splitlines() if line.strip()]
    # A regular expression's error is drawn over several lines, and its last one tells.
    return next((line for line in lines if line.startswith("error:")), lines[0] if lines else "it cannot be compiled")


def limits() -> Any:
    """Return the bounds of a grammar and of each step through it; none of them depends on the machine."""
    return llguidance().LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def llguidance() -> Any:
    """Return the library.  Raises `GatewayError` where it is not installed."""
    try:
        import llguidance as library
    except ImportError as error:
        message = "Answers of a given form need the package 'llguidance': pip install 'illm[local]'"
        raise GatewayError(Kind.CAPABILITY, message) from error
    return library


def _parts(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [(name, schema.get(name)) for name in _BELOW_ONE]
    for name in _BELOW_LIST:
        below = schema.get(name)
        found += [(f"{name}[{at}]", part) for at, part in enumerate(below if isinstance(below, list) else ())]
    for name in _BELOW_NAMES:
        below = schema.get(name)
        found += [(f"{name}.{key}", part) for key, part in below.items()] if isinstance(below, Mapping) else []
    return [(name, part) for name, part in found if isinstance(part, Mapping)]
