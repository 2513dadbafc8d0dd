"""A completion's answer from TGI's native endpoints, whole or streamed.

Repaired here: the stop string left in the text, special tokens among the others, reasons to end that are TGI's own.
"""

from collections.abc import Mapping, Sequence

from illm.backends.remote.tgi_body import StreamBody, WholeBody, incomplete
from illm.backends.remote.tgi_text import TokenText
from illm.backends.remote.tgi_tokens import finish_reason, generated_logprob, joined, raise_error_in
from illm.backends.remote.tgi_wire import Details, Generated, GeneratedEvent, decode
from illm.core.events import Delta, Done, Event, Finish, Usage
from illm.core.requests import Completion


class GeneratedBody(WholeBody):
    """A whole answer; how long the prompt was is in the head alone.

    Args:
        request: what was asked.
        headers: of the response.
    """

    def __init__(self, request: Completion, headers: Mapping[bytes, bytes]) -> None:
        super().__init__("tgi")
        self._request = request
        self._prompt_tokens = _count(headers.get(b"x-prompt-tokens"))
        self._generated = _count(headers.get(b"x-generated-tokens"))

    def read(self, body: bytes) -> Sequence[Event]:
        """See `WholeBody.read`."""
        answer = decode(body, Generated)
        raise_error_in(answer, self._request)
        details = answer.details
        if answer.generated_text is None or details is None:
            raise incomplete()
        text = TokenText(self._request.sampling.stop)
        deltas = _deltas(text, answer.generated_text, details, scores=self._request.sampling.logprobs is not None)
        return [
            *_echo(self._request),
            *joined([*deltas, text.close()]),
            Finish(0, "stop" if text.hit else finish_reason(details.finish_reason), text.hit),
            Done(Usage(self._prompt_tokens, details.generated_tokens or self._generated)),
        ]


class GeneratedStream(StreamBody):
    """A streamed answer; see `ChatStream` for when it ends before upstream does.

    Args:
        request: what was asked.
    """

    def __init__(self, request: Completion) -> None:
        super().__init__()
        self._request = request
        self._echo: Sequence[Delta] = _echo(request)
        self._text = TokenText(request.sampling.stop)
        self._scores = request.sampling.logprobs is not None
        self._tokens = 0
        self._details: Details | None = None
        self._finished = self._complete = self._over = False

    def take(self, payload: bytes, out: list[Event]) -> None:
        """See `StreamBody.take`."""
        if self._complete or self._over or not payload:
            return
        event = decode(payload, GeneratedEvent)
        raise_error_in(event, self._request)
        out += self._echo
        self._echo = ()
        self._complete = event.generated_text is not None
        token = event.token
        if token is not None:
            self._tokens += 1
            if self._finished and not self._complete and not self._request.include_usage:
                self._over = True
                out.append(Done(Usage(0, self._tokens)))
                return
            if not self._finished and not token.special:
                logprob = generated_logprob(token, event.top_tokens) if self._scores else None
                out.append(self._text.feed(token.text, logprob))
                if self._text.hit is not None:
                    self._finish("stop", out)
        if self._complete:
            if event.details is None:
                raise incomplete()
            self._details = event.details
            if not self._finished:
                self._finish(finish_reason(event.details.finish_reason), out)

    def end(self, out: list[Event]) -> None:
        """See `StreamBody.end`."""
        if self._over:
            return
        if self._details is None:
            raise incomplete()
        out.append(Done(Usage(self._details.input_length or 0, self._details.generated_tokens or self._tokens)))

    def _finish(self, reason: str, out: list[Event]) -> None:
        self._finished = True
        rest = self._text.close()
        if rest is not None:
            out.append(rest)
        out.append(Finish(0, reason, self._text.hit))


def _echo(request: Completion) -> Sequence[Delta]:
    return (Delta(0, str(request.prompts[0])),) if request.echo else ()


def _deltas(text: TokenText, generated: str, details: Details, *, scores: bool) -> Sequence[Delta]:
    tokens = [(at, token) for at, token in enumerate(details.tokens) if not token.special]
    if not scores:
        return [text.feed(generated)]
    tops = details.top_tokens or []
    logprobs = [generated_logprob(token, tops[at] if at < len(tops) else None) for at, token in tokens]
    if "".join(token.text for _, token in tokens) == generated:
        return [text.feed(token.text, logprob) for (_, token), logprob in zip(tokens, logprobs, strict=True)]
    fed = text.feed(generated)
    return [Delta(0, fed.text, fed.tokens, tuple(logprobs))]


def _count(header: bytes | None) -> int:
    return int(header) if header is not None and header.isdigit() and len(header) < 20 else 0
