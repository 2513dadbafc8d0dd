"""One choice's tokens as TGI shows them: each with its text, and all of them together with what ended them.

Backends cut a stop string away, as OpenAI does; TGI leaves it in the text, and in the tokens that made it.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from illm.core.events import Delta, Finish, Logprob
from illm.dialects.openai.encoder import json_text

JSON = dict[str, Any]


class Choice:
    """One choice, as it grows.

    Attributes:
        text: what backends call its text.
        count: how many tokens it took.
    """

    def __init__(self) -> None:
        self.text = ""
        self.count = 0
        self.finish: Finish | None = None
        self.tokens: list[Logprob] = []

    def feed(self, delta: Delta) -> Sequence[Logprob]:
        """Take a delta; return its tokens.  A backend that tells none apart made, for all we know, one of them."""
        self.text += delta.text
        self.count += delta.tokens
        tokens = delta.logprobs or ((Logprob(delta.text, 0.0),) if delta.text else ())
        self.tokens += tokens
        return tokens

    @property
    def reason(self) -> str:
        """TGI's word for what ended it."""
        assert self.finish is not None  # noqa: S101 - the callers have seen to it
        if self.finish.reason == "length":
            return "length"
        return "eos_token" if self.finish.stop is None else "stop_sequence"

    @property
    def generated(self) -> str:
        """Its text as TGI has it: with the stop string."""
        return self.text + ((self.finish.stop if self.finish else None) or "")

    @property
    def mean_logprob(self) -> float:
        """What TGI compares the choices of `best_of` by."""
        return sum(token.logprob or 0.0 for token in self.tokens) / max(len(self.tokens), 1)


def token_object(token: Logprob) -> JSON:
    """Return a token as TGI shows it."""
    return {
        "id": token.id or 0,
        "text": raw(token.token),
        "logprob": token.logprob,
        "special": token.special,
    }


def top_tokens(token: Logprob, count: int) -> list[JSON]:
    """Return a token's alternatives, at most `count`, the likeliest first."""
    return [token_object(other) for other in token.top[:count]]


def raw(text: str) -> orjson.Fragment:
    """Return a text as JSON that no line splitter of a client's can cut."""
    return orjson.Fragment(json_text(text))
