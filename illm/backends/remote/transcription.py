"""Transcriptions by vLLM and SGLang: the form that asks, and answers that are not quite OpenAI's.

Both answer `text` and subtitles differently or not at all, so they are asked for JSON and the rest is made here.  Their
streams are of chunks, as in a chat; OpenAI's are of events.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson

from illm.backends.remote.bodies import Body, Collected
from illm.backends.remote.upstream_errors import complaint_in, nonsense, upstream_error
from illm.core.events import Done, Event, Raw, Usage
from illm.core.requests import Transcribe
from illm.core.sse import SSEDecoder
from illm.dialects.openai.transcripts import transcript_body, transcript_delta, transcript_done
from illm.errors import GatewayError, Kind

_UPSTREAM_FORMAT = {"text": "json", "srt": "verbose_json", "vtt": "verbose_json"}
_REFUSED = ("include", "chunking_strategy", "known_speaker_names", "known_speaker_references")
_STREAMED = ("json", "text")
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


def transcription_form(request: Transcribe, ignored: Collection[str] = ()) -> tuple[bytes, bytes]:
    """Write the form.

    Args:
        request: what was asked.
        ignored: further fields that this server would ignore.

    Returns:
        Content type and body.

    Raises:
        GatewayError: a field that these servers would ignore although it changes the answer.
    """
    fields = dict(request.fields)
    word = fields.get("response_format", "json")
    for name in (*_REFUSED, *ignored):
        if fields.get(name):
            raise GatewayError(Kind.UNSUPPORTED_PARAMETER, f"The parameter '{name}' is not supported.", param=name)
    if fields.get("stream"):
        if word not in _STREAMED:
            raise GatewayError(
                Kind.UNSUPPORTED_PARAMETER, f"A stream cannot have the format '{word}'.", param="response_format"
            )
        fields["stream_include_usage"] = True
    fields["response_format"] = _UPSTREAM_FORMAT.get(word, word)
    if request.model is not None:
        fields["model"] = request.model
    boundary = f"illm-{uuid4().hex}"
    body = bytearray()
    for name, value in _form_fields(fields):
        body += f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode(
            "utf-8", "replace"
        )
    filename = request.filename.translate(_ESCAPES)
    body += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{filename}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    ).encode("utf-8", "replace")
    body += request.audio
    body += f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}".encode(), bytes(body)


def _form_fields(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        plain = name.translate(_ESCAPES)
        if isinstance(value, list):
            yield from ((f"{plain}[]", _form_text(item)) for item in value)
        else:
            yield plain, _form_text(value)


def _form_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def no_translations(framework: str) -> GatewayError:
    """Return the refusal of a server that only transcribes."""
    return GatewayError(Kind.CAPABILITY, f"The backend '{framework}' does not support translations of speech")


def transcription_body(framework: str, request: Transcribe, headers: Mapping[bytes, bytes]) -> Body:
    """Choose what reads the answer."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if request.fields.get("stream") and kind in (b"text/event-stream", b""):
        return TranscriptStream(framework, request)
    return WholeTranscript(framework, request)


class WholeTranscript(Collected):
    """An answer that is not streamed."""

    def __init__(self, framework: str, request: Transcribe) -> None:
        super().__init__(framework)
        self._request = request

    def read(self, body: bytes) -> Sequence[Event]:
        """Write it in the client's format."""
        answer = self.decoded(body)
        if answer.get("error") or answer.get("object") == "error":
            raise upstream_error(self.framework, self._request, 200, complaint_in(answer))
        word = str(self._request.fields.get("response_format", "json"))
        if self._request.fields.get("stream") or not isinstance(answer.get("text"), str):
            raise nonsense(self.framework, "answered something that is no transcript")
        if word in ("srt", "vtt") and not isinstance(answer.get("segments"), list):
            raise nonsense(self.framework, "answered without the segments that subtitles are made of")
        if word == "verbose_json" and "word" in (self._request.fields.get("timestamp_granularities") or ()):
            self._check_words(answer)
        try:
            return (Raw(transcript_body(word, answer)), Done(_usage(answer.get("usage"))))
        except (KeyError, TypeError, ValueError):
            raise nonsense(self.framework, "answered segments without times") from None

    def _check_words(self, answer: Mapping[str, Any]) -> None:
        # Whether a server can is not known before: neither refuses the wish, and some others fulfil it.
        if answer.get("text") and not answer.get("words"):
            message = f"The backend '{self.framework}' does not support the times of words"
            raise GatewayError(Kind.CAPABILITY, message, param="timestamp_granularities")


class TranscriptStream:
    """A stream of `transcription.chunk`, as the events that OpenAI has."""

    def __init__(self, framework: str, request: Transcribe) -> None:
        self._framework = framework
        self._request = request
        self._sse = SSEDecoder()
        self._text: list[str] = []
        self._usage: dict[str, Any] | None = None
        self._ended = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """Translate a piece."""
        return self._events(self._sse.feed(data))

    def close(self) -> Sequence[Event]:
        """Send the whole text once more, as OpenAI does."""
        rest = self._events(self._sse.close())
        if not self._ended:
            raise nonsense(self._framework, "ended before its answer was complete")
        counted = _usage(self._usage)
        usage = {
            "type": "tokens",
            "input_tokens": counted.prompt_tokens,
            "output_tokens": counted.completion_tokens,
            "total_tokens": counted.prompt_tokens + counted.completion_tokens,
        }
        return (*rest, Raw(transcript_done("".join(self._text), usage if self._usage else None)), Done(counted))

    def _events(self, payloads: list[bytes]) -> Sequence[Event]:
        out = b"".join([transcript_delta(text) for payload in payloads for text in self._texts(payload)])
        return (Raw(out),) if out else ()

    def _texts(self, payload: bytes) -> Iterator[str]:
        if not payload or payload.startswith(b"[DONE]"):
            self._ended |= bool(payload)
            return
        try:
            chunk = orjson.loads(payload)
            if chunk.get("error"):
                raise upstream_error(self._framework, self._request, 200, complaint_in(chunk))
            self._usage = chunk.get("usage") or self._usage
            for choice in chunk.get("choices") or ():
                text = (choice.get("delta") or {}).get("content")
                self._ended |= bool(choice.get("finish_reason"))
                if text:
                    self._text.append(text)
                    yield text
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            raise nonsense(self._framework, "sent an event that is no piece of a transcript") from None


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, Mapping):
        return Usage()
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens"))
    return Usage(*(count if isinstance(count, int) else 0 for count in (prompt, completion)))
