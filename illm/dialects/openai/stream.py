"""Streamed answers: one SSE frame a delta, for chat and for completions.

A token's frame is the hottest path of the gateway, so everything that is the same from frame to frame is encoded
once; per delta there is one encoding of the text and one concatenation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from illm.core.events import Delta, Done, Event, Finish, Logprob, Raw, Reasoning, ToolDelta, Usage
from illm.dialects.openai.encoder import Head, ended_early, json_text, usage_object
from illm.dialects.openai.errors import error_body
from illm.dialects.openai.logprobs import chat_logprobs, completion_logprobs, text_length
from illm.errors import GatewayError

_HOLE = "@"
_END = b"data: [DONE]\n\n"


class ChunkShape(NamedTuple):
    """How an endpoint spells its chunks.

    Args:
        opening: what a choice says before anything else, if it does.
        text: what carries text; `_HOLE` marks where.
        ending: what carries the finish reason.
        logprobs: given some, and the characters of text before them: what carries them.
    """

    opening: Mapping[str, Any] | None
    text: Mapping[str, Any]
    ending: Mapping[str, Any]
    logprobs: Callable[[Sequence[Logprob], int], Mapping[str, Any]]


CHAT_CHUNK = ChunkShape(
    # Once a choice and never again: clients that fold deltas together concatenate the role.
    opening={"delta": {"role": "assistant", "content": "", "refusal": None}},
    text={"delta": {"content": _HOLE}},
    ending={"delta": {}},
    logprobs=lambda logprobs, offset: chat_logprobs(logprobs),
)
COMPLETION_CHUNK = ChunkShape(opening=None, text={"text": _HOLE}, ending={"text": ""}, logprobs=completion_logprobs)


class StreamEncoder:
    """The frames of one streamed answer.

    Args:
        head: the members that every chunk repeats.
        shape: the endpoint's chunks.
        choices: how many choices there are.
        include_usage: whether a usage chunk comes last; then every other chunk says `"usage":null`.
    """

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, head: Head, shape: ChunkShape, *, choices: int, include_usage: bool) -> None:
        self._head = head
        self._shape = shape
        self._before = b""  # until there is something to encode: what is relayed needs no frames of ours
        self._after = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._texts: list[tuple[bytes, bytes]] = []
        self._opening = b""
        self._unfinished = set(range(choices))
        self._offsets = [0] * choices  # characters of text that went out with log-probabilities
        self._called: set[tuple[int, int]] = set()
        self._raw = False
        self._include_usage = include_usage
        self._usage: Usage | None = None
        self._closed = False

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the frames of a batch; a delta without text and log-probabilities makes none."""
        if len(events) == 1 and type(events[0]) is Raw:
            self._raw = True
            return events[0].data
        pieces = []
        if events and not (self._raw or type(events[0]) is Raw):
            if not self._before:
                self._prepare()
            if self._opening:
                pieces.append(self._opening)
                self._opening = b""
        for event in events:
            match event:
                case Delta(index=index, text=text, logprobs=logprobs):
                    if logprobs:
                        pieces.append(self._sure(index, text, logprobs))
                    elif text:
                        before, after = self._texts[index]
                        pieces += (before, json_text(text), after)
                case Finish(index=index, reason=reason):
                    if index in self._unfinished:
                        self._unfinished.discard(index)
                        pieces.append(self._frame(_choice(index, self._shape.ending, reason)))
                case Reasoning(index=index, text=text):
                    if text:
                        delta = {"reasoning_content": orjson.Fragment(json_text(text))}
                        pieces.append(self._frame(_choice(index, {"delta": delta})))
                case ToolDelta():
                    pieces.append(self._tool(event))
                case Raw(data=data):
                    self._raw = True
                    pieces.append(data)
                case Done(usage=usage):
                    self._usage = usage
                case _:
                    raise TypeError(f"a stream of text cannot hold {type(event).__name__}")
        return b"".join(pieces)

    def close(self) -> bytes:
        """Return the usage chunk, if asked for, and `[DONE]`; or the error, where the events ended too early.

        Frames that came as they are have brought their own end.
        """
        if self._closed:
            return b""
        if self._raw and self._usage is not None:
            self._closed = True
            return b""
        if self._usage is None or self._unfinished:
            return self.fail(ended_early())
        self._closed = True
        if not self._include_usage:
            return _END
        usage = orjson.dumps(usage_object(self._usage))
        return b'%s],"usage":%s}\n\n%s' % (self._before, usage, _END)

    def fail(self, error: GatewayError) -> bytes:
        """Return the error as a frame, and `[DONE]`: nothing comes after it."""
        if self._closed:
            return b""
        self._closed = True
        return b"data: %s\n\n%s" % (error_body(error), _END)

    def _prepare(self) -> None:
        """Encode what is the same in every frame."""
        shape, choices = self._shape, len(self._offsets)
        self._before = b"data: " + orjson.dumps(self._head)[:-1] + b',"choices":['
        for index in range(choices):
            before, after = _choice(index, shape.text).split(b'"%s"' % _HOLE.encode())
            self._texts.append((self._before + before, after + self._after))
        if shape.opening is not None:
            # All at once and in order, whichever choice speaks first: clients index a list by them.
            self._opening = b"".join(self._frame(_choice(index, shape.opening)) for index in range(choices))

    def _sure(self, index: int, text: str, logprobs: Sequence[Logprob]) -> bytes:
        before, after = self._texts[index]
        carried = orjson.dumps(self._shape.logprobs(logprobs, self._offsets[index]))
        self._offsets[index] += sum(map(text_length, logprobs))
        return before + json_text(text) + after.replace(b'"logprobs":null', b'"logprobs":' + carried, 1)

    def _tool(self, event: ToolDelta) -> bytes:
        # Clients concatenate ids and names, so each goes out once, with an empty piece of arguments at least.
        function: dict[str, Any] = {"arguments": orjson.Fragment(json_text(event.arguments))}
        call: dict[str, Any] = {"index": event.call}
        if (event.index, event.call) not in self._called:
            self._called.add((event.index, event.call))
            call |= {"id": event.id or "", "type": "function"}
            function = {"name": orjson.Fragment(json_text(event.name or "")), **function}
        return self._frame(_choice(event.index, {"delta": {"tool_calls": [{**call, "function": function}]}}))

    def _frame(self, choice: bytes) -> bytes:
        return self._before + choice + self._after


def _choice(index: int, content: Mapping[str, Any], reason: str | None = None) -> bytes:
    return orjson.dumps({"index": index, **content, "logprobs": None, "finish_reason": reason})
