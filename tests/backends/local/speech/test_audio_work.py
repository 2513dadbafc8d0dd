"""Recordings take turns, report how far they are, and leave without a trace; with a listener that needs no model."""

import logging

import pytest

pytest.importorskip("av", reason="the extra `audio` is not installed")
numpy = pytest.importorskip("numpy")

from backends.local.speech.recordings import encoded, tone  # noqa: E402
from illm.backends.local.audio_work import AudioWork  # noqa: E402
from illm.backends.local.speech.spectrogram import LogMel  # noqa: E402
from illm.backends.local.speech.transcriber import Heard  # noqa: E402
from illm.core.events import Done, Failed, Recording, Segment  # noqa: E402
from illm.core.requests import Transcribe  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

pytestmark = pytest.mark.model


class Echo:
    """A transcriber that hears one word a window; `breaks` makes a window impossible."""

    served = "echo"
    languages = frozenset({"en", "de"})
    translates = False
    times_words = False
    time_zero = 1000
    language = "en"
    prompt = (1, 2)

    def __init__(self) -> None:
        self.heard = 0
        self.breaks = False

    def log_mel(self):
        return LogMel(numpy.ones((4, 201), numpy.float32))

    def listener(self, sound, wish):
        return self

    def hear(self, window, before):
        if self.breaks:
            raise RuntimeError("secret")
        self.heard += 1
        return Heard([self.heard], 0.0, -0.1, 1.0, 0.0)

    def text(self, tokens):
        return f" {tokens[0]}"


@pytest.fixture(scope="module")
def sound():
    return {seconds: encoded(tone(seconds), "flac", rate=16_000, layout="mono") for seconds in (1, 70, 150)}


def asked(audio: bytes, **fields) -> Transcribe:
    return Transcribe(audio=audio, fields=fields)


def begun(work: AudioWork, key: int, audio: bytes) -> None:
    work.add(key, work.prepare(asked(audio)).through(lambda: True))


def test_recordings_take_turns(sound):
    work = AudioWork(Echo(), 600.0)
    begun(work, 1, sound[70])
    begun(work, 2, sound[1])
    steps = [[(key, [type(event) for event in events]) for key, events in work.step()] for _ in range(6)]
    assert not work.busy
    assert steps == [
        [(1, [Recording])],
        [(2, [Recording])],
        [(1, [Segment])],
        [(2, [Segment, Done])],
        [(1, [Segment])],
        [(1, [Segment, Done])],
    ]
    assert work.describe() == {"engine": {"running": 0, "windows": 4, "seconds": 71.0}}
    assert work.step() == []


def test_who_leaves_is_heard_no_further(sound):
    echo = Echo()
    work = AudioWork(echo, 600.0)
    begun(work, 1, sound[150])
    work.step()
    work.step()
    work.abort(1)
    work.abort(2)
    assert not work.busy
    assert echo.heard == 1


def test_what_breaks_one_recording_leaves_the_others(sound):
    echo = Echo()
    work = AudioWork(echo, 600.0)
    begun(work, 1, sound[1])
    begun(work, 2, sound[1])
    work.step()
    work.step()
    echo.breaks = True
    [(key, (failed,))] = work.step()
    assert (key, type(failed), failed.error.kind) == (1, Failed, Kind.INTERNAL)
    assert "secret" not in failed.error.message
    echo.breaks = False
    [(key, events)] = work.step()
    assert (key, type(events[-1])) == (2, Done)


def test_a_long_recording_says_how_far_it_is(sound, caplog):
    work = AudioWork(Echo(), 600.0)
    with caplog.at_level(logging.INFO, "illm.local"):
        begun(work, 7, sound[150])
        while work.busy:
            work.step()
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        begun(work, 8, sound[1])
        while work.busy:
            work.step()
    assert "decoded 150 s" in lines[0]
    assert [line.partition(" %")[0] for line in lines[1:]] == [
        f"echo: recording 7 is at {part}" for part in (20, 40, 60, 80, 100)
    ]
    assert caplog.records == []


def test_usage_counts_sound_and_text(sound):
    work = AudioWork(Echo(), 600.0)
    begun(work, 1, sound[1])
    work.step()
    [(_, (*_, done))] = work.step()
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (52, 1)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"include": ["logprobs"]}, Kind.UNSUPPORTED_PARAMETER, "include"),
        ({"chunking_strategy": "auto"}, Kind.UNSUPPORTED_PARAMETER, "chunking_strategy"),
        ({"seed": "1"}, Kind.UNSUPPORTED_PARAMETER, "seed"),
        ({"response_format": "diarized_json"}, Kind.UNSUPPORTED_PARAMETER, "response_format"),
        ({"response_format": "srt", "stream": True}, Kind.UNSUPPORTED_PARAMETER, "response_format"),
        ({"timestamp_granularities": ["segment"]}, Kind.INVALID_REQUEST, "timestamp_granularities"),
        (
            {"timestamp_granularities": ["word"], "response_format": "verbose_json"},
            Kind.CAPABILITY,
            "timestamp_granularities",
        ),
        ({"language": "klingon"}, Kind.INVALID_REQUEST, "language"),
        ({"language": "fr"}, Kind.CAPABILITY, "language"),
        ({}, Kind.TOO_LARGE, "file"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(sound, fields, kind, param):
    work = AudioWork(Echo(), 60.0)
    with pytest.raises(GatewayError) as caught:
        work.prepare(asked(sound[70], **fields)).through(lambda: True)
    assert (caught.value.kind, caught.value.param) == (kind, param)


def test_what_changes_nothing_is_taken(sound):
    fields = {"user": "me", "include": [], "language": "German", "stream": False, "response_format": "vtt"}
    prepared = AudioWork(Echo(), 60.0).prepare(asked(sound[1], **fields)).through(lambda: True)
    assert prepared.wish.language == "de"


def test_a_translation_that_cannot_be_is_refused(sound):
    with pytest.raises(GatewayError) as caught:
        AudioWork(Echo(), 60.0).prepare(Transcribe(audio=sound[1], translate=True))
    assert (caught.value.kind, caught.value.param) == (Kind.CAPABILITY, "model")
