"""Whole answers: everything is collected and encoded at the end, for chat and for completions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from illm.core.events import Delta, Done, Event, Finish, Logprob, Raw, Reasoning, ToolDelta, Usage
from illm.dialects.openai.encoder import Head, ended_early, json_text, usage_object
from illm.dialects.openai.logprobs import chat_logprobs, completion_logprobs
from illm.errors import GatewayError


@dataclass(slots=True)
class Call:
    """A tool call as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """A choice as far as it has come."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    logprobs: list[Logprob] = field(default_factory=list)
    reason: str | None = None


ChoiceShape = Callable[[Choice], dict[str, Any]]
"""Given a choice: the members that carry what it says."""


def chat_choice(choice: Choice) -> dict[str, Any]:
    """Return what a chat's choice says, and how sure it was."""
    text = "".join(choice.texts)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls and not text else _raw(text),
        "refusal": None,
        "annotations": [],
    }
    if choice.reasoning:
        message["reasoning_content"] = _raw("".join(choice.reasoning))
    if choice.calls:
        message["tool_calls"] = [_call(choice.calls[number]) for number in sorted(choice.calls)]
    return {"message": message, "logprobs": chat_logprobs(choice.logprobs) if choice.logprobs else None}


def completion_choice(choice: Choice) -> dict[str, Any]:
    """Return what a completion's choice says, and how sure it was."""
    logprobs = completion_logprobs(choice.logprobs, 0) if choice.logprobs else None
    return {"text": _raw("".join(choice.texts)), "logprobs": logprobs}


class AnswerEncoder:
    """The JSON body of one answer.

    Args:
        head: the body's first members.
        shape: how a choice carries what it says.
        choices: how many choices there are.
    """

    content_type = b"application/json"

    def __init__(self, head: Head, shape: ChoiceShape, *, choices: int) -> None:
        self._head = head
        self._shape = shape
        self._count = choices
        self._choices: list[Choice] = []  # made when the first of them speaks: a relayed answer has none
        self._usage: Usage | None = None
        self._raw: list[bytes] = []

    def feed(self, events: Sequence[Event]) -> bytes:
        """Collect a batch; there is nothing to send before the end."""
        for event in events:
            if type(event) is Raw:
                self._raw.append(event.data)
            elif type(event) is Done:
                self._usage = event.usage
            else:
                self._take(event)
        return b""

    def close(self) -> bytes:
        """Return the whole body; one that came as it is, unchanged.

        Raises:
            GatewayError: `BACKEND_DIED` where the events ended before every choice had finished.
        """
        if self._usage is not None and self._raw:
            return b"".join(self._raw)
        if self._usage is None or not self._choices or any(choice.reason is None for choice in self._choices):
            raise ended_early()
        choices = [
            {"index": index, **self._shape(choice), "finish_reason": choice.reason}
            for index, choice in enumerate(self._choices)
        ]
        return orjson.dumps({**self._head, "choices": choices, "usage": usage_object(self._usage)})

    def fail(self, error: GatewayError) -> bytes:
        """Return nothing: an answer's body is sent whole or not at all, so the error has a status of its own."""
        return b""

    def _take(self, event: Event) -> None:
        if not self._choices:
            self._choices = [Choice() for _ in range(self._count)]
        match event:
            case Delta(index=index, text=text, logprobs=logprobs):
                self._choices[index].texts.append(text)
                self._choices[index].logprobs += logprobs
            case Reasoning(index=index, text=text):
                self._choices[index].reasoning.append(text)
            case ToolDelta(index=index, call=number, arguments=arguments):
                call = self._choices[index].calls.setdefault(number, Call())
                call.id, call.name = event.id or call.id, event.name or call.name
                call.arguments.append(arguments)
            case Finish(index=index, reason=reason):
                self._choices[index].reason = self._choices[index].reason or reason
            case _:
                raise TypeError(f"an answer of text cannot hold {type(event).__name__}")


def _call(call: Call) -> dict[str, Any]:
    # Clients parse the arguments at once, and nothing is no JSON.
    arguments = "".join(call.arguments) or "{}"
    return {"id": call.id, "type": "function", "function": {"name": _raw(call.name), "arguments": _raw(arguments)}}


def _raw(text: str) -> orjson.Fragment:
    return orjson.Fragment(json_text(text))
