"""Tokens, tool calls and reasons to end: from TGI's words to ours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import uuid4

import orjson

from illm.backends.remote.tgi_errors import tgi_error
from illm.backends.remote.tgi_wire import Call, Fallible, Scored, Token
from illm.backends.remote.upstream_errors import complaint_in, nonsense
from illm.core.events import Delta, Event, Logprob, ToolDelta
from illm.core.requests import Chat, Request

MINUS_INFINITY = -9999.0

REASONS: Mapping[str, str] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}
"""Its reasons to end, and OpenAI's."""


def raise_error_in(answer: Fallible, request: Request, framework: str = "tgi") -> None:
    """Raise the error that stands where an answer should."""
    if answer.error:
        told = {"error": answer.error, "error_type": answer.error_type}
        raise tgi_error(framework, request, 200, complaint_in(told))


def finish_reason(given: str) -> str:
    """Translate a reason to end.  Raises `GatewayError` for a word that may mean anything."""
    reason = REASONS.get(given)
    if reason is None:
        raise nonsense("tgi", f"ended its answer with {given[:32]!r}")
    return reason


def scored(score: Scored) -> Logprob:
    """Return a token's log-probability as the chat endpoint has it."""
    top = tuple(_logprob(other.token, other.logprob) for other in score.top_logprobs or ())
    return _logprob(score.token, score.logprob, top)


def generated_logprob(token: Token, alternatives: Iterable[Token] | None) -> Logprob:
    """Return a token's log-probability as the native endpoints have it."""
    top = tuple(_logprob(other.text, other.logprob, id=other.id) for other in alternatives or ())
    return _logprob(token.text, token.logprob, top, token.id)


def joined(deltas: Iterable[Delta | None]) -> Sequence[Delta]:
    """Return many deltas as one, or none where they say nothing."""
    known = [delta for delta in deltas if delta is not None]
    whole = Delta(
        0,
        "".join(delta.text for delta in known),
        sum(delta.tokens for delta in known),
        tuple(logprob for delta in known for logprob in delta.logprobs),
    )
    return (whole,) if whole.text or whole.logprobs else ()


class ToolCalls:
    """The tool calls of one answer: who each is, once, then its arguments; ids that no other turn has.

    Args:
        request: the chat; a client that named the tool is told `stop` at the end, as OpenAI does.
        new_id: makes an id.
    """

    def __init__(self, request: Chat, new_id: Callable[[], str] = lambda: f"call_{uuid4().hex[:24]}") -> None:
        self._reason = (
            "stop" if request.tool_choice is not None and request.tool_choice.mode == "named" else "tool_calls"
        )
        self._new_id = new_id
        self._numbers: dict[int, int] = {}  # theirs → ours
        self._empty: set[int] = set()  # calls without arguments so far

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def read(self, call: Call) -> Sequence[Event]:
        """Return what a piece of a call adds."""
        function = call.function
        events: list[Event] = []
        number = self._numbers.get(call.index)
        if number is None:
            if not function.name:
                raise nonsense("tgi", "sent a tool call without a name")
            number = self._numbers[call.index] = len(self._numbers)
            self._empty.add(number)
            events.append(ToolDelta(0, number, id=self._new_id(), name=function.name))
        arguments = function.arguments
        if arguments is not None and not isinstance(arguments, str):
            arguments = orjson.dumps(arguments).decode()
        if arguments:
            self._empty.discard(number)
            events.append(ToolDelta(0, number, arguments))
        return events

    def close(self) -> Sequence[Event]:
        """Return what is left: clients read arguments as JSON at once, and nothing is none."""
        return [ToolDelta(0, number, "{}") for number in sorted(self._empty)]

    def reason(self, given: str | None) -> str | None:
        """Return the reason to end: a call that was not cut short is one, whatever was said, even where nothing was."""
        return self._reason if self and given in (None, "stop", "tool_calls") else given


def _logprob(
    token: str,
    logprob: float | None,
    top: tuple[Logprob, ...] = (),
    id: int | None = None,  # noqa: A002 - the wire's word
) -> Logprob:
    # What is plain ASCII can only be itself; any other text may be a piece of a character, or several put together.
    raw = token.encode() if token.isascii() else None
    return Logprob(token, MINUS_INFINITY if logprob is None else max(logprob, MINUS_INFINITY), raw, top, id)
