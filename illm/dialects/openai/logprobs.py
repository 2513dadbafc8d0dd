"""Log-probabilities in the two shapes that the two endpoints have for them."""

from collections.abc import Iterable, Sequence
from typing import Any

from illm.core.events import Logprob

LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


def chat_logprobs(logprobs: Iterable[Logprob]) -> dict[str, Any]:
    """Return a chat's `logprobs`: a list of tokens, each with its alternatives."""
    return {"content": [_entry(one) | {"top_logprobs": [_entry(other) for other in one.top]} for one in logprobs]}


def completion_logprobs(logprobs: Sequence[Logprob], offset: int) -> dict[str, Any]:
    """Return a completion's `logprobs`: parallel lists.

    Two tokens with the same text are one alternative here; the likelier is kept.

    Args:
        logprobs: in order.
        offset: characters of the choice's text before the first of them.
    """
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += text_length(one)
    tops: list[dict[str, float] | None] = []
    for one in logprobs:
        if one.logprob is None:
            tops.append(None)
            continue
        top: dict[str, float] = {}
        for other in one.top:
            text = _text(other.token)
            top[text] = max(_finite(other.logprob), top.get(text, LOWEST))
        tops.append(top)
    return {
        "tokens": [_text(one.token) for one in logprobs],
        "token_logprobs": [None if one.logprob is None else _finite(one.logprob) for one in logprobs],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _entry(one: Logprob) -> dict[str, Any]:
    raw = None if one.raw is None else list(one.raw)
    return {"token": _text(one.token), "logprob": _finite(one.logprob), "bytes": raw}


def text_length(one: Logprob) -> int:
    """Return how many characters of the text are a token's: the end of the text, say, has a name and is none of it."""
    return 0 if one.special else len(one.token)


def _finite(logprob: float | None) -> float:
    if logprob is None:
        return LOWEST
    return max(logprob, LOWEST) if logprob == logprob else LOWEST  # NaN is not even equal to itself


def _text(token: str) -> str:
    try:
        token.encode()
    except UnicodeEncodeError:
        return token.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return token
