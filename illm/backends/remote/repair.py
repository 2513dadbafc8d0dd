"""What OpenAI-like servers get wrong, put right: on decoded JSON, chunk by chunk or as a whole.

Clients that fold deltas together concatenate roles, ids and names, and index lists by choice: so each comes once, and
in order.  A finish reason that no client knows is translated; one that means failure becomes a failure.
"""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import orjson

from illm.backends.remote.repair_logprobs import repair_logprobs
from illm.backends.remote.upstream_errors import complaint_in, nonsense, upstream_error
from illm.core.events import Usage
from illm.core.requests import Chat, Completion, Request
from illm.core.values import value
from illm.errors import GatewayError

JSON = dict[str, Any]

REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "repetition": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
}
"""Words that ended choices use, and what clients know."""

FAILURES = frozenset({"abort", "error", "cancelled", "unload"})
"""Words that say that a choice was broken off."""


@value(frozen=True, slots=True)
class Asked:
    """What the answer has to look like.

    Args:
        framework: who answers, for messages.
        request: what was asked.
        copies: how many times each choice is repeated (greedy choices are all equal, and asked for once).
    """

    framework: str
    request: Chat | Completion
    copies: int = 1

    @property
    def named_tool(self) -> bool:
        """OpenAI says `stop`, not `tool_calls`, where the client named the tool."""
        choice = self.request.tool_choice if isinstance(self.request, Chat) else None
        return choice is not None and choice.mode == "named"

    @property
    def single_call(self) -> bool:
        """The client can carry out one call at a time; llama.cpp makes several all the same."""
        return isinstance(self.request, Chat) and not self.request.parallel_tool_calls

    @property
    def continuous_usage(self) -> bool:
        """The client wants the counts in every chunk."""
        options = self.request.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("continuous_usage_stats"))

    def raise_error_in(self, value: JSON) -> None:
        """Raise the error that stands where an answer should: nested, a string, or flat."""
        if value.get("error") or value.get("object") == "error":
            raise upstream_error(self.framework, self.request, 200, complaint_in(value))

    @property
    def plain(self) -> bool:
        """Whether nothing in the answer has to change on account of what was asked."""
        tools = isinstance(self.request, Chat) and self.request.tools
        return self.request.sampling.n == 1 and not tools


def gateway_name(request: Request, theirs: Any) -> str:
    """Return the gateway's name for the model: the one that was asked for; never a directory."""
    if request.model:
        return request.model
    if not isinstance(theirs, str):
        return ""
    return theirs.rstrip("/").rpartition("/")[2] if theirs[:1] in ("/", ".", "~") else theirs


def read_usage(usage: Any) -> Usage | None:
    """Read a usage object for the log; `None` where it is none."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else 0,
        _count(completion.get("reasoning_tokens")) if isinstance(completion, dict) else 0,
    )


def _count(count: Any) -> int:
    return count if isinstance(count, int) else 0


def repair_usage(usage: JSON, copies: int = 1) -> JSON:
    """Put the counts where OpenAI has them: a total, and `reasoning_tokens` among the details."""
    reasoning = usage.pop("reasoning_tokens", None)
    details = {
        **(usage.get("completion_tokens_details") or {}),
        **({"reasoning_tokens": reasoning} if reasoning else {}),
    }
    if details:
        usage["completion_tokens_details"] = {
            name: count * copies if isinstance(count, int) else count for name, count in details.items()
        }
    prompt, completion = usage.get("prompt_tokens") or 0, (usage.get("completion_tokens") or 0) * copies
    return {**usage, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason(asked: Asked, reason: Any, *, called: bool) -> str | None:
    """Translate a finish reason.

    Raises:
        GatewayError: it says that the choice was broken off.
    """
    if not reason:
        return None
    if reason in FAILURES:
        raise nonsense(asked.framework, "broke off the answer")
    known = REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"
    if called and known in ("stop", "tool_calls"):
        return "stop" if asked.named_tool else "tool_calls"
    return known


class ToolCalls:
    """The tool calls of one choice's stream: each id, type and name once, and indices that do not move."""

    def __init__(self) -> None:
        self._ids: dict[int, str | None] = {}  # ours → the id as upstream gave it
        self._ours: dict[int, int] = {}  # theirs → ours
        self._named: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._ids)

    def repair(self, deltas: list[Any]) -> list[JSON]:
        """Return the deltas as a client may fold them together; those that say nothing are left out."""
        return [fixed for delta in deltas if isinstance(delta, dict) for fixed in self._one(delta)]

    def _one(self, delta: JSON) -> Iterator[JSON]:
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = _text(function.get("name")), arguments_text(function.get("arguments"))
        theirs, given = delta.get("index"), _text(delta.get("id"))
        if isinstance(theirs, int):
            ours = self._ours.get(theirs)
        else:  # without an index, an id begins a call, and anything else belongs to the one before
            ours = None if given or not self._ids else len(self._ids) - 1
        if ours is None or (given and name and self._ids[ours] not in (None, given)):
            ours = len(self._ids)
            self._ids[ours] = given
            if isinstance(theirs, int):
                self._ours[theirs] = ours
            self._named.discard(ours)
            fixed = {"index": ours, "id": given or f"call_{uuid4().hex[:24]}", "type": "function"}
            if name:
                self._named.add(ours)
            yield {**fixed, "function": {**({"name": name} if name else {}), "arguments": arguments}}
        elif name and ours not in self._named:
            self._named.add(ours)
            yield {"index": ours, "function": {"name": name, "arguments": arguments}}
        elif arguments:
            yield {"index": ours, "function": {"arguments": arguments}}


def arguments_text(arguments: Any) -> str:
    """Return a call's arguments as the text that OpenAI has there."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return orjson.dumps(arguments).decode()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def repair_answer(asked: Asked, body: JSON) -> JSON:
    """Put a whole answer right, in place.

    Raises:
        GatewayError: it is an error, is no answer, or was broken off.
    """
    asked.raise_error_in(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise nonsense(asked.framework, "answered without a choice")
    for at, choice in enumerate(choices):
        choice.setdefault("index", at)
        message = choice.get("message")
        called = isinstance(message, dict) and _repair_message(asked, message)
        choice["finish_reason"] = finish_reason(asked, choice.get("finish_reason"), called=called)
        if choice["finish_reason"] is None:
            raise incomplete(asked)
        choice.setdefault("logprobs", None)
        if isinstance(asked.request, Completion):
            repair_logprobs(choice, 0)
    choices.sort(key=lambda choice: choice["index"])
    if asked.copies > 1:
        body["choices"] = [
            {**choice, "index": choice["index"] * asked.copies + copy}
            for choice in choices
            for copy in range(asked.copies)
        ]
    body["model"] = gateway_name(asked.request, body.get("model"))
    if isinstance(body.get("metadata"), dict):  # OpenAI's is the client's own, and of strings
        body["metadata"] = {name: value for name, value in body["metadata"].items() if isinstance(value, str)}
    if isinstance(body.get("usage"), dict):
        body["usage"] = repair_usage(body["usage"], asked.copies)
    return body


def incomplete(asked: Asked) -> GatewayError:
    """Return the error for an answer that just stops: inventing a reason would make truncation look like an end."""
    return nonsense(asked.framework, "ended before its answer was complete")


def _repair_message(asked: Asked, message: JSON) -> bool:
    reasoning = message.pop("reasoning", None)
    if reasoning and not message.get("reasoning_content"):
        message["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if not calls:
        message.pop("tool_calls", None)
        return bool(message.get("function_call"))
    calls = [_repair_call(call) for call in calls if isinstance(call, dict)]
    message["tool_calls"] = calls[:1] if asked.single_call else calls
    message["content"] = message.get("content") or None
    return True


def _repair_call(call: JSON) -> JSON:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    # Many clients parse the arguments at once, and nothing is no JSON.
    arguments = arguments_text(function.get("arguments")) or "{}"
    return {
        "id": call.get("id") or f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": function.get("name") or "", "arguments": arguments},
    }
