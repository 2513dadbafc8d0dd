"""`POST /v1/audio/transcriptions`: the answer, in its formats and as a stream of events."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from illm.core.events import Done, Event, Raw, Recording, Segment, Usage
from illm.core.languages import LANGUAGES
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
    """An answer made of `Segment`s, or one that comes in the client's dialect already, as `Raw`.

    Args:
        request: what was asked; decides the format.
    """

    def __init__(self, request: Transcribe) -> None:
        self._request = request
        self._stream = bool(request.fields.get("stream"))
        self._format = str(request.fields.get("response_format", "json"))
        self.content_type = _EVENTS if self._stream else _CONTENT_TYPES.get(self._format, _JSON)
        self._pieces: list[bytes] = []
        self._recording: Recording | None = None
        self._segments: list[Segment] = []
        self._said, self._pause = False, ""
        self._usage: Usage | None = None

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return what can be sent now."""
        for event in events:
            match event:
                case Raw(data=data):
                    self._pieces.append(data)
                case Recording():
                    self._recording = event
                case Segment():
                    self._segments.append(event)
                    if self._stream:
                        self._say(event.text)
                case Done(usage=usage):
                    self._usage = usage
                case _:
                    raise TypeError(f"a transcript cannot hold {type(event).__name__}")
        return self._take() if self._stream else b""

    def close(self) -> bytes:
        """Return the rest.  Raises `GatewayError` where the events ended too early."""
        if self._usage is None:
            if self._stream:
                return self.fail(ended_early())
            raise ended_early()
        if self._recording is not None:
            self._pieces.append(self._end(self._recording, self._usage))
        return self._take()

    def fail(self, error: GatewayError) -> bytes:
        """Return the error as an event, in a stream."""
        return b"data: %s\n\n%s" % (error_body(error), _END) if self._stream else b""

    def _say(self, text: str) -> None:
        # What is streamed must add up to what closes the stream: the text without the space around it.
        text = self._pause + text
        text = text if self._said else text.lstrip()
        spoken = text.rstrip()
        self._pause = text[len(spoken) :]
        if spoken:
            self._said = True
            self._pieces.append(transcript_delta(spoken))

    def _end(self, recording: Recording, usage: Usage) -> bytes:
        if self._stream:
            return transcript_done(whole_text(self._segments), token_usage(usage))
        answer = transcript_answer(self._request, recording, self._segments)
        return transcript_body(self._format, answer)

    def _take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def transcript_answer(request: Transcribe, recording: Recording, segments: Sequence[Segment]) -> dict[str, Any]:
    """Return a whole answer as `transcript_body` takes it.

    Args:
        request: what was asked; its granularities say whether segments, words or both are wanted.
        recording: what was listened to.
        segments: what was heard, in order.
    """
    spent = {"type": "duration", "seconds": round(recording.seconds, 2)}
    word = request.fields.get("response_format", "json")
    if word == "json":
        return {"text": whole_text(segments), "usage": spent}
    answer: dict[str, Any] = {
        "task": "translate" if request.translate else "transcribe",
        "language": "english" if request.translate else LANGUAGES.get(recording.language, recording.language),
        "duration": round(recording.seconds, 2),
        "text": whole_text(segments),
    }
    wanted = request.fields.get("timestamp_granularities") or ("segment",)
    if "segment" in wanted or word != "verbose_json":
        answer["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    if "word" in wanted:
        answer["words"] = [
            {"word": spoken.word.strip(), "start": round(spoken.start, 2), "end": round(spoken.end, 2)}
            for segment in segments
            for spoken in segment.words or ()
        ]
    return {**answer, "usage": spent}


def whole_text(segments: Sequence[Segment]) -> str:
    """Return what was said, as one text."""
    return "".join(segment.text for segment in segments).strip()


def token_usage(usage: Usage) -> dict[str, Any]:
    """Return usage as the end of a stream has it."""
    return {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": segment.seek,
        "start": round(segment.start, 2),
        "end": round(segment.end, 2),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


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
