"""Whole answers: the text is collected and encoded at the end, for chat and for completions."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from illm.core.events import Delta, Done, Event, Finish, Usage
from illm.dialects.openai.encoder import Head, ended_early, json_text, usage_object
from illm.errors import GatewayError

ChoiceShape = Callable[[str], dict[str, Any]]
"""Given a choice's text: the members that carry it."""


def chat_choice(text: str) -> dict[str, Any]:
    """Return what a chat's choice says its text with."""
    return {"message": {"role": "assistant", "content": _raw(text), "refusal": None, "annotations": []}}


def completion_choice(text: str) -> dict[str, Any]:
    """Return what a completion's choice says its text with."""
    return {"text": _raw(text)}


class AnswerEncoder:
    """The JSON body of one answer.

    Args:
        head: the body's first members.
        shape: how a choice carries its text.
        choices: how many choices there are.
    """

    content_type = b"application/json"

    def __init__(self, head: Head, shape: ChoiceShape, *, choices: int) -> None:
        self._head = head
        self._shape = shape
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._reasons: dict[int, str] = {}
        self._usage: Usage | None = None

    def feed(self, events: Sequence[Event]) -> bytes:
        """Collect a batch; there is nothing to send before the end."""
        for event in events:
            match event:
                case Delta(index=index, text=text):
                    self._texts[index].append(text)
                case Finish(index=index, reason=reason):
                    self._reasons.setdefault(index, reason)
                case Done(usage=usage):
                    self._usage = usage
                case _:
                    raise TypeError(f"an answer of text cannot hold {type(event).__name__}")
        return b""

    def close(self) -> bytes:
        """Return the whole body.

        Raises:
            GatewayError: `BACKEND_DIED` where the events ended before every choice had finished.
        """
        if self._usage is None or len(self._reasons) < len(self._texts):
            raise ended_early()
        choices = [
            {"index": index, **self._shape("".join(texts)), "logprobs": None, "finish_reason": self._reasons[index]}
            for index, texts in enumerate(self._texts)
        ]
        return orjson.dumps({**self._head, "choices": choices, "usage": usage_object(self._usage)})

    def fail(self, error: GatewayError) -> bytes:
        """Return nothing: an answer's body is sent whole or not at all, so the error has a status of its own."""
        return b""


def _raw(text: str) -> orjson.Fragment:
    return orjson.Fragment(json_text(text))
