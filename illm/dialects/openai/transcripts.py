"""`POST /v1/audio/transcriptions`: the answer, in its formats and as a stream of events."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from illm.core.events import Done, Event, Raw
from illm.core.requests import Transcribe
from illm.dialects.openai.encoder import Encoder, ended_early, json_text
from illm.dialects.openai.errors import error_body
from illm.errors import GatewayError

_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
_EVENTS = b"text/event-stream; charset=utf-8"
_CONTENT_TYPES = {"text": _TEXT, "srt": _TEXT, "vtt": _TEXT}

_END = b"data: [DONE]\n\n"


def transcript_body(response_format: str, answer: Mapping[str, Any]) -> bytes:
    """Write a whole answer.

    Args:
        response_format: OpenAI's word for the format.
        answer: `text`, and whatever else a `verbose_json` answer has; the two formats of subtitles need its
            `segments`: objects of `start` and `end` (seconds) and `text`.
    """
    match response_format:
        case "text":
            return str(answer.get("text", "")).encode("utf-8", "replace")
        case "srt":
            return _srt(answer.get("segments") or ())
        case "vtt":
            return _vtt(answer.get("segments") or ())
        case _:
            return orjson.dumps(answer)


def transcript_delta(text: str) -> bytes:
    """Return the event that carries a piece of text."""
    return b'data: {"type":"transcript.text.delta","delta":%s}\n\n' % json_text(text)


def transcript_done(text: str, usage: Mapping[str, Any] | None = None) -> bytes:
    """Return the event that closes a stream, and the end.

    Args:
        text: all of it.
        usage: as OpenAI has it (`{"type": "tokens", "input_tokens", ...}`), where known.
    """
    counted = b"" if usage is None else b',"usage":' + orjson.dumps(usage)
    return b'data: {"type":"transcript.text.done","text":%s%s}\n\n%s' % (json_text(text), counted, _END)


class TranscriptEncoder:
    """An answer that comes in the client's dialect already, as `Raw`.

    Args:
        request: what was asked; decides the content type.
    """

    def __init__(self, request: Transcribe) -> None:
        self._stream = bool(request.fields.get("stream"))
        word = str(request.fields.get("response_format", "json"))
        self.content_type = _EVENTS if self._stream else _CONTENT_TYPES.get(word, _JSON)
        self._pieces: list[bytes] = []
        self._done = False

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return what can be sent now."""
        for event in events:
            match event:
                case Raw(data=data):
                    self._pieces.append(data)
                case Done():
                    self._done = True
                case _:
                    raise TypeError(f"a transcript cannot hold {type(event).__name__}")
        return self._take() if self._stream else b""

    def close(self) -> bytes:
        """Return the rest.  Raises `GatewayError` where the events ended too early."""
        if not self._done:
            if self._stream:
                return self.fail(ended_early())
            raise ended_early()
        return self._take()

    def fail(self, error: GatewayError) -> bytes:
        """Return the error as an event, in a stream."""
        return b"data: %s\n\n%s" % (error_body(error), _END) if self._stream else b""

    def _take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def transcription_encoder(request: Transcribe) -> Encoder:
    """Return the encoder for a transcription's answer."""
    return TranscriptEncoder(request)


def _srt(segments: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(
        f"{at}\n{_time(segment['start'], ',')} --> {_time(segment['end'], ',')}\n{_line(segment)}\n\n"
        for at, segment in enumerate(segments, 1)
    ).encode("utf-8", "replace")


def _vtt(segments: Sequence[Mapping[str, Any]]) -> bytes:
    cues = "".join(
        f"{_time(segment['start'], '.')} --> {_time(segment['end'], '.')}\n{_line(segment)}\n\n" for segment in segments
    )
    return f"WEBVTT\n\n{cues}".encode("utf-8", "replace")


def _line(segment: Mapping[str, Any]) -> str:
    # An empty line or an arrow inside a cue would end it, or begin another.
    lines = [line.strip() for line in str(segment["text"]).splitlines()]
    return "\n".join(line for line in lines if line).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = max(round(float(seconds) * 1000), 0)
    rest, milliseconds = divmod(milliseconds, 1000)
    rest, second = divmod(rest, 60)
    hour, minute = divmod(rest, 60)
    return f"{hour:02}:{minute:02}:{second:02}{point}{milliseconds:03}"
