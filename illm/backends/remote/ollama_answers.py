"""Ollama's answers, from bytes to events: its NDJSON streams, its embeddings, its errors under every status.

What it leaves out or gets wrong is repaired here: counters that are zero, ids of tool calls that are missing or used
before, indices that begin anew, a `stop` that ended in tool calls.  What it must not leave out is an error: no end
without `done`, no `done` without a reason.
"""

import math
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import orjson

from illm.backends.remote.bodies import ErrorBody
from illm.backends.remote.ollama_errors import ollama_error
from illm.backends.remote.upstream_errors import complaint_in, nonsense
from illm.core.events import Delta, Done, Event, Failed, Finish, Logprob, Raw, Reasoning, ToolDelta, Usage, Vectors
from illm.core.ndjson import NDJSONDecoder
from illm.core.requests import Chat, Completion, Embed, Generate, Request, Transcribe
from illm.dialects.openai.transcripts import transcript_body
from illm.errors import GatewayError

JSON = Mapping[str, Any]

DONE_REASONS: Mapping[str, str] = {"stop": "stop", "length": "length"}
"""`load` and `unload` answer no question that we ask, and nothing at all means that the model's runner went away."""

MINUS_INFINITY = -9999.0

MAX_BODY = 512 * 2**20


class Body(Protocol):
    """A response's body, once the head has said what it is.  Raises `GatewayError`; what `out` holds by then counts."""

    def feed(self, data: bytes, out: list[Event]) -> None:
        """Take a piece of it, and append what it completes."""

    def close(self, out: list[Event]) -> None:
        """It has ended."""


class OllamaDecoder:
    """See `illm.backends.remote.upstream.Decoder`.

    Args:
        request: what was asked.
        new_id: makes an id for a tool call that has none.
    """

    def __init__(self, request: Request, new_id: Callable[[], str] = lambda: f"call_{uuid4().hex[:24]}") -> None:
        self._request = request
        self._new_id = new_id
        self._body: Body | None = None
        self._error: ErrorBody | None = None

    def start(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head."""
        if status != 200:
            self._error = ErrorBody(lambda complaint: ollama_error(self._request, status, complaint, headers))
        elif isinstance(self._request, Chat | Completion):
            self._body = _TextBody(self._request, self._new_id)
        elif isinstance(self._request, Embed):
            self._body = _WholeBody(self._request, partial(_vectors, self._request))
        elif isinstance(self._request, Transcribe):
            self._body = _WholeBody(self._request, partial(_transcript, self._request))

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece of the body."""
        if self._error is not None:
            return self._error.feed(data)
        out: list[Event] = []
        if self._body is not None:
            try:
                self._body.feed(data, out)
            except GatewayError as error:
                self._fail(error, out)
        return out

    def close(self) -> Sequence[Event]:
        """The body has ended."""
        if self._error is not None:
            return self._error.close()
        out: list[Event] = []
        if self._body is not None:
            try:
                self._body.close(out)
            except GatewayError as error:
                self._fail(error, out)
        self._body = None
        return out

    def _fail(self, error: GatewayError, out: list[Event]) -> None:
        self._body = None
        out.append(Failed(error))


class _TextBody:
    """A chat or a completion, streamed: one object a line."""

    def __init__(self, request: Generate, new_id: Callable[[], str]) -> None:
        self._request = request
        self._lines = NDJSONDecoder()
        self._calls = _Calls(request, new_id)
        self._usage: Usage | None = None
        self._echo = request.prompts[0] if isinstance(request, Completion) and request.echo else ""

    def feed(self, data: bytes, out: list[Event]) -> None:
        for line in self._lines.feed(data):
            self._read(line, out)

    def close(self, out: list[Event]) -> None:
        for line in self._lines.close():
            self._read(line, out)
        if self._usage is None:
            raise nonsense("ollama", "broke off before its answer was complete")
        out.append(Done(self._usage))

    def _read(self, line: bytes, out: list[Event]) -> None:
        if self._usage is not None:
            return  # it has said that it is done
        said = _object(line)
        if said.get("error"):
            raise ollama_error(self._request, 200, complaint_in(said))
        if self._echo:
            out.append(Delta(0, str(self._echo)))
            self._echo = ""
        self._read_words(said, out)
        if said.get("done") is True:
            reason = self._reason(said.get("done_reason"))
            self._usage = Usage(_count(said, "prompt_eval_count"), _count(said, "eval_count"))
            out.append(Finish(0, "tool_calls" if reason == "stop" and self._calls.count else reason))

    def _read_words(self, said: JSON, out: list[Event]) -> None:
        if isinstance(self._request, Chat):
            words, field = said.get("message") or {}, "content"
            if not isinstance(words, dict):
                raise nonsense("ollama", "sent a message that is no object")
            if thinking := _text(words, "thinking"):
                out.append(Reasoning(0, thinking))
        else:  # which has no place for reasoning
            words, field = said, "response"
        text = _text(words, field)
        logprobs = _logprobs(said.get("logprobs") or words.get("logprobs"))
        if text or logprobs:
            out.append(Delta(0, text, len(logprobs) or 1, logprobs))
        for call in words.get("tool_calls") or ():
            out.extend(self._calls.read(call))

    def _reason(self, given: object) -> str:
        reason = DONE_REASONS.get(given) if isinstance(given, str) else None
        if reason is None:
            why = "ended its answer without saying why" if not given else f"ended its answer with {str(given)[:32]!r}"
            raise nonsense("ollama", why)
        return reason


class _Calls:
    """The tool calls of one answer: numbered from 0, and each with an id that the conversation has not seen."""

    def __init__(self, request: Generate, new_id: Callable[[], str]) -> None:
        chat = request if isinstance(request, Chat) else None
        self._one = chat is not None and not chat.parallel_tool_calls
        self._new_id = new_id
        self._seen = {call.id for message in (chat.messages if chat else ()) for call in message.tool_calls}
        self.count = 0

    def read(self, call: Any) -> Sequence[Event]:
        """Return the pieces of one call, which arrives whole: who it is, then its arguments."""
        call = call if isinstance(call, dict) else {}
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise nonsense("ollama", "sent a tool call without a name")
        if self._one and self.count:
            return ()
        given = call.get("id")
        id_ = given if isinstance(given, str) and given and given not in self._seen else self._new_id()
        self._seen.add(id_)
        at, self.count = self.count, self.count + 1
        return ToolDelta(0, at, id=id_, name=name), ToolDelta(0, at, _arguments(function.get("arguments")))


class _WholeBody:
    """One object, that makes sense only as a whole; `make` makes it."""

    def __init__(self, request: Request, make: Callable[[JSON], Sequence[Event]]) -> None:
        self._request = request
        self._make = make
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, out: list[Event]) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            raise nonsense("ollama", f"sent an answer larger than {MAX_BODY} bytes")
        self._pieces.append(data)

    def close(self, out: list[Event]) -> None:
        answer = _object(b"".join(self._pieces))
        if answer.get("error"):
            raise ollama_error(self._request, 200, complaint_in(answer))
        out += self._make(answer)


def _vectors(request: Embed, answer: JSON) -> Sequence[Event]:
    rows = answer.get("embeddings")
    if not isinstance(rows, list) or len(rows) != len(request.inputs):
        raise nonsense("ollama", "did not send one embedding for each input")
    return Vectors(tuple(map(_packed, rows))), Done(Usage(_count(answer, "prompt_eval_count")))


def _transcript(request: Transcribe, answer: JSON) -> Sequence[Event]:
    text = answer.get("text")
    if not isinstance(text, str):
        raise nonsense("ollama", "answered something that is no transcript")
    word = str(request.fields.get("response_format", "json"))
    return Raw(transcript_body(word, {"text": text})), Done(Usage())


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise nonsense("ollama", "sent a line that is no JSON object")
    return value


def _text(words: JSON, name: str) -> str:
    value = words.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise nonsense("ollama", f"sent a {name!r} that is no text")
    return value


def _count(said: JSON, name: str) -> int:
    value = said.get(name)  # left out where it is zero
    return value if type(value) is int and value > 0 else 0


def _arguments(value: object) -> str:
    if isinstance(value, str):  # as OpenAI has it, and some servers that imitate both
        return value.strip() or "{}"
    return orjson.dumps({} if value is None else value).decode()


def _logprobs(listed: Any) -> tuple[Logprob, ...]:
    return tuple(map(_logprob, listed)) if isinstance(listed, list) else ()


def _logprob(one: Any) -> Logprob:
    try:
        token, value, raw = one["token"], one["logprob"], one.get("bytes")
        logprob = MINUS_INFINITY if value is None else max(float(value), MINUS_INFINITY)
        top = tuple(map(_logprob, one.get("top_logprobs") or ()))
        return Logprob(str(token), logprob, None if raw is None else bytes(raw), top)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise nonsense("ollama", "sent log-probabilities that make no sense") from None


def _packed(row: Any) -> bytes:
    try:
        vector = array("f", row)
    except (TypeError, OverflowError):
        vector = array("f")
    if not vector or not math.isfinite(math.fsum(vector)):
        raise nonsense("ollama", "sent an embedding that is no vector")
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tobytes()
