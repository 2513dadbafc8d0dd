"""What every encoder of an answer has in common: its shape, and the pieces of JSON they share.

An encoder turns events into bytes and does no I/O.  The one that streams gives bytes for every batch; the one that
does not collects, and gives everything at the end.  Whoever sends cannot tell them apart, which is the point.
"""

from collections.abc import Sequence
from typing import Protocol, TypedDict

import orjson

from illm.core.events import Event, Usage
from illm.errors import GatewayError, Kind


class Head(TypedDict):
    """The members that are the same in every chunk, and first in an answer."""

    id: str
    object: str
    created: int
    model: str


class Encoder(Protocol):
    """One answer, from events to bytes."""

    content_type: bytes

    def feed(self, events: Sequence[Event]) -> bytes:
        """Take a batch of events, without `Failed`; return the bytes to send now, perhaps none."""
        ...

    def close(self) -> bytes:
        """Return the rest, once `Done` has been fed.

        Raises:
            GatewayError: `BACKEND_DIED` where the events ended too early and nothing has been sent that could tell.
        """
        ...

    def fail(self, error: GatewayError) -> bytes:
        """Return how to say, after the first byte has gone, that the rest will not come."""
        ...


# Python's `splitlines` and everything built on it cuts at these, though SSE does not.  JSON may escape them, so we do.
_LINE_BREAKS = {
    "\x85".encode(): b"\\u0085",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}


def json_text(text: str) -> bytes:
    """Encode a string as JSON that no line splitter can cut.

    A lone surrogate, which no UTF-8 can carry, becomes U+FFFD: one odd character must not end an answer.
    """
    try:
        encoded = orjson.dumps(text)
    except orjson.JSONEncodeError:
        encoded = orjson.dumps(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if not text.isascii():
        for raw, escaped in _LINE_BREAKS.items():
            if raw in encoded:
                encoded = encoded.replace(raw, escaped)
    return encoded


def usage_object(usage: Usage) -> dict[str, object]:
    """Return OpenAI's usage; counts that this gateway has none of are 0, as clients add them up."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def ended_early() -> GatewayError:
    """Return the error for events that stopped before every choice had finished."""
    return GatewayError(Kind.BACKEND_DIED, "The backend ended before its answer was complete.")
