"""Transcripts made of segments: every format, and streams."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.events import Done, Recording, Segment, Usage, Word
from illm.core.languages import LANGUAGES, language_code
from illm.core.requests import Transcribe
from illm.dialects.openai import transcription_encoder
from illm.dialects.openai.transcripts import transcript_body
from illm.errors import GatewayError

HEARD = (
    Segment(start=0.0, end=2.5, text=" Hello there.", words=(Word(" Hello", 0.0, 1.0), Word(" there.", 1.0, 2.5))),
    Segment(start=2.5, end=61.001, text=" A --> b\n\nc", tokens=(5, 6), seek=250, words=(Word(" A", 2.5, 3.0),)),
)
RECORDING = Recording(61.5, "en")
DONE = Done(Usage(3075, 9))


def asked(translate=False, **fields) -> Transcribe:
    return Transcribe(audio=b"x", fields=fields, translate=translate)


def whole(request: Transcribe, segments=HEARD) -> bytes:
    encoder = transcription_encoder(request)
    assert encoder.feed([RECORDING]) == b""
    assert encoder.feed([*segments, DONE]) == b""
    return encoder.close()


def test_json():
    body = orjson.loads(whole(asked()))
    assert body == {"text": "Hello there. A --> b\n\nc", "usage": {"type": "duration", "seconds": 61.5}}
    assert transcription_encoder(asked()).content_type == b"application/json"


def test_text_and_subtitles():
    assert whole(asked(response_format="text")) == b"Hello there. A --> b\n\nc"
    assert whole(asked(response_format="srt")).decode() == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n00:00:02,500 --> 00:01:01,000\nA -> b\nc\n\n"
    )
    assert whole(asked(response_format="vtt")).startswith(b"WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n")
    assert transcription_encoder(asked(response_format="vtt")).content_type == b"text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("granularities", "present"),
    [
        (None, {"segments"}),
        (["segment"], {"segments"}),
        (["word"], {"words"}),
        (["word", "segment"], {"segments", "words"}),
    ],
)
def test_verbose_json_has_what_was_asked_for(granularities, present):
    body = orjson.loads(whole(asked(response_format="verbose_json", timestamp_granularities=granularities)))
    assert body.keys() - {"task", "language", "duration", "text", "usage"} == present
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "english", 61.5)
    if "segments" in present:
        assert [segment["id"] for segment in body["segments"]] == [0, 1]
        assert body["segments"][1]["tokens"] == [5, 6]
        assert body["segments"][1]["seek"] == 250
    if "words" in present:
        assert body["words"][1] == {"word": "there.", "start": 1.0, "end": 2.5}


def test_a_translation_is_english():
    body = orjson.loads(whole(asked(translate=True, response_format="verbose_json")))
    assert (body["task"], body["language"]) == ("translate", "english")


def test_silence_has_no_text():
    assert orjson.loads(whole(asked(), segments=()))["text"] == ""
    assert whole(asked(response_format="srt"), segments=()) == b""
    assert whole(asked(response_format="vtt"), segments=()) == b"WEBVTT\n\n"


@given(st.lists(st.text(alphabet=" \nab", max_size=4), max_size=6))
def test_what_is_streamed_adds_up(texts):
    encoder = transcription_encoder(asked(stream=True))
    sent = encoder.feed([RECORDING])
    for text in texts:
        sent += encoder.feed([Segment(start=0, end=1, text=text)])
    sent += encoder.feed([DONE])
    sent += encoder.close()
    *frames, end, rest = sent.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    *deltas, done = [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames]
    assert {delta["type"] for delta in deltas} <= {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == "".join(texts).strip()
    assert done["usage"] == {"type": "tokens", "input_tokens": 3075, "output_tokens": 9, "total_tokens": 3084}


def test_an_end_too_early_is_an_error():
    encoder = transcription_encoder(asked())
    encoder.feed([RECORDING, HEARD[0]])
    with pytest.raises(GatewayError):
        encoder.close()
    encoder = transcription_encoder(asked(stream=True))
    encoder.feed([RECORDING])
    assert b'"error"' in encoder.close()


@given(st.floats(0, 359_999.0))
def test_times_of_subtitles_are_milliseconds(seconds):
    for word, pattern in (("srt", r"(\d\d+):(\d\d):(\d\d),(\d{3})"), ("vtt", r"(\d\d+):(\d\d):(\d\d)\.(\d{3})")):
        answer = {"segments": [{"start": 0, "end": seconds, "text": "x"}]}
        line = next(line for line in transcript_body(word, answer).decode().splitlines() if "-->" in line)
        match = re.fullmatch(pattern, line.split(" --> ")[1])
        hours, minutes, whole_seconds, milliseconds = map(int, match.groups())
        assert minutes < 60
        assert whole_seconds < 60
        written = (hours * 3600 + minutes * 60 + whole_seconds) * 1000 + milliseconds
        assert abs(written - seconds * 1000) <= 0.5001


def test_languages_go_by_code_and_name():
    assert language_code("DE") == language_code("german") == language_code(" German ") == "de"
    assert language_code("jv") == "jw"
    assert language_code("klingon") is None
    assert len(set(LANGUAGES.values())) == len(LANGUAGES)
