"""A chat's answer from TGI's Messages API, whole or streamed.

Repaired here: the stop string left in the text, `role` in every chunk, ids of tool calls that are the same in every
turn, the finish reason that never says `tool_calls` and in a stream says nothing at all after one.
"""

from collections.abc import Sequence

from illm.backends.remote.tgi_body import StreamBody, WholeBody, incomplete
from illm.backends.remote.tgi_text import TokenText
from illm.backends.remote.tgi_tokens import ToolCalls, finish_reason, joined, raise_error_in, scored
from illm.backends.remote.tgi_wire import ChatAnswer, Choice, Counts, Said, Scored, decode
from illm.core.events import Delta, Done, Event, Finish, Usage
from illm.core.requests import Chat

ENDS = ("stop", "eos_token")
"""Reasons that mean that the last token is the one for the end, whose log-probability is nobody's business."""


class ChatBody(WholeBody):
    """A whole answer.

    Args:
        request: what was asked.
    """

    def __init__(self, request: Chat) -> None:
        super().__init__("tgi")
        self._request = request

    def read(self, body: bytes) -> Sequence[Event]:
        """See `WholeBody.read`."""
        answer = decode(body, ChatAnswer)
        raise_error_in(answer, self._request)
        if not answer.choices or not answer.choices[0].finish_reason:
            raise incomplete()
        choice = answer.choices[0]
        said = choice.message or Said()
        text = TokenText(self._request.sampling.stop)
        calls = ToolCalls(self._request)
        events: list[Event] = [*joined([*_deltas(text, said.content or "", _scores(choice)), text.close()])]
        for call in said.calls:
            events += calls.read(call)
        reason = "stop" if text.hit else finish_reason(choice.finish_reason or "")
        return [
            *events,
            *calls.close(),
            Finish(0, calls.reason(reason) or reason, text.hit),
            Done(_usage(answer.usage, 0)),
        ]


class ChatStream(StreamBody):
    """A streamed answer.

    It ends before upstream does where a stop string was met that upstream, which looks for it at the end of a token
    only, has overlooked; unless the client wants the counts, which only come at upstream's own end.

    Args:
        request: what was asked.
    """

    def __init__(self, request: Chat) -> None:
        super().__init__()
        self._request = request
        self._text = TokenText(request.sampling.stop)
        self._calls = ToolCalls(request)
        self._tokens = 0
        self._usage: Counts | None = None
        self._finished = self._terminated = self._over = False

    def take(self, payload: bytes, out: list[Event]) -> None:
        """See `StreamBody.take`."""
        if payload.startswith(b"[DONE]"):
            self._terminated = True
        if self._terminated or self._over or not payload:
            return
        chunk = decode(payload, ChatAnswer)
        raise_error_in(chunk, self._request)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            if choice.index == 0:
                self._read(choice, out)

    def end(self, out: list[Event]) -> None:
        """See `StreamBody.end`."""
        if self._over:
            return
        if not self._finished and self._calls and (self._terminated or self._usage is not None):
            self._finish(None, out)
        if not self._finished:
            raise incomplete()
        out.append(Done(_usage(self._usage, self._tokens)))

    def _read(self, choice: Choice, out: list[Event]) -> None:
        said = choice.delta or Said()
        scores = _scores(choice)
        if self._finished:
            if self._text.hit and said.content and not self._request.include_usage:
                self._over = True
                out.append(Done(_usage(None, self._tokens)))
            return
        for call in said.calls:
            self._tokens += 1
            out += self._calls.read(call)
        if said.content is not None and not said.calls:
            self._tokens += 1  # one event a token, the empty ones included
            out += _deltas(self._text, said.content, scores)
        if self._text.hit is not None:
            self._finish("stop", out)
        elif choice.finish_reason:
            self._finish(finish_reason(choice.finish_reason), out)

    def _finish(self, reason: str | None, out: list[Event]) -> None:
        self._finished = True
        rest = self._text.close()
        if rest is not None:
            out.append(rest)
        out += self._calls.close()
        out.append(Finish(0, self._calls.reason(reason) or "stop", self._text.hit))


def _deltas(text: TokenText, content: str, scores: Sequence[Scored]) -> Sequence[Delta]:
    if "".join(score.token for score in scores) != content:
        # Tokens that are pieces of characters: their texts put together are not the text.
        fed = text.feed(content)
        return [Delta(0, fed.text, fed.tokens, fed.logprobs + tuple(map(scored, scores)))]
    return [text.feed(score.token, scored(score)) for score in scores] or [text.feed(content)]


def _scores(choice: Choice) -> Sequence[Scored]:
    scores = (choice.logprobs.content if choice.logprobs is not None else None) or ()
    return scores[:-1] if choice.finish_reason in ENDS else scores


def _usage(counts: Counts | None, tokens: int) -> Usage:
    return Usage(0, tokens) if counts is None else Usage(counts.prompt_tokens, counts.completion_tokens)
