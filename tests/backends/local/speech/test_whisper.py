"""Whisper on Transformers, window by window: what `generate` makes of the whole recording, token for token."""

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")
pytest.importorskip("av", reason="the extra `audio` is not installed")

import numpy  # noqa: E402

from backends.local.speech.recordings import encoded, tone  # noqa: E402
from illm.backends.local.audio_work import AudioWork  # noqa: E402
from illm.backends.local.sources import resolve_named  # noqa: E402
from illm.backends.local.speech.load import load_listener  # noqa: E402
from illm.core.events import Done, Recording, Segment  # noqa: E402
from illm.core.requests import Transcribe  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded(tiny_whisper, tmp_path_factory):
    """A transcriber, and the model and tokenizer that it should do as."""
    directory = tmp_path_factory.mktemp("whisper")
    model, tokenizer = tiny_whisper(directory)
    source = resolve_named(str(directory), "audio")
    return load_listener(source, device="cpu", threads=1, progress=lambda text, part: None), model, tokenizer


def noise(seconds: float, seed: int = 0) -> numpy.ndarray:
    swell = numpy.abs(tone(seconds, hertz=0.3)) / 8000
    return (numpy.random.default_rng(seed).normal(0, 3000, len(swell)) * swell).astype(numpy.int16)


def transcribed(transcriber, samples, *, translate=False, **fields):
    """Return the events of a recording."""
    work = AudioWork(transcriber, 600.0)
    audio = encoded(samples, "wav", rate=16_000, layout="mono")
    work.add(1, work.prepare(Transcribe(audio=audio, fields=fields, translate=translate)).through(lambda: True))
    events = []
    while work.busy:
        events += [event for _, batch in work.step() for event in batch]
    assert isinstance(events[0], Recording)
    assert isinstance(events[-1], Done)
    return events


def generated(model, samples, **options) -> list[list[int]]:
    """Return the tokens of each segment, as the library walks through a recording itself."""
    extractor = transformers.WhisperFeatureExtractor()
    features = extractor(
        samples.astype(numpy.float32) / 32768.0,
        sampling_rate=16_000,
        truncation=False,
        padding="longest",
        return_tensors="pt",
    ).input_features
    made = model.generate(features, return_timestamps=True, return_segments=True, **options)
    return [segment["tokens"].tolist() for segment in made["segments"][0] if "start" in segment]


@pytest.mark.parametrize("seconds", [3.0, 30.0, 75.0])
@pytest.mark.parametrize("translate", [False, True])
def test_tokens_are_those_of_generate(loaded, seconds, translate):
    transcriber, model, tokenizer = loaded
    samples = noise(seconds)
    events = transcribed(transcriber, samples, translate=translate, language="de")
    heard = [list(event.tokens) for event in events if isinstance(event, Segment)]
    task = "translate" if translate else "transcribe"
    expected = generated(model, samples, language="de", task=task)
    zero = model.generation_config.no_timestamps_token_id + 1
    # The library leaves the mark of a break in its last segment, and keeps those without text.
    trimmed = [tokens[:-1] if tokens[-2:] and min(tokens[-2:]) >= zero else tokens for tokens in expected]
    texts = [tokenizer.decode([token for token in tokens if token < 256]) for tokens in trimmed]
    kept = [tokens for tokens, text in zip(trimmed, texts, strict=True) if text.strip()]
    assert heard == kept
    assert len(heard) >= 1
    assert events[0].language == "de"


def test_the_tasks_differ(loaded):
    transcriber, *_ = loaded
    said = [transcribed(transcriber, noise(5.0), translate=way, language="de")[1].tokens for way in (False, True)]
    assert said[0] != said[1]


def test_the_language_is_found_as_the_library_finds_it(loaded):
    transcriber, model, _ = loaded
    samples = noise(4.0)
    extractor = transformers.WhisperFeatureExtractor()
    features = extractor(samples.astype(numpy.float32) / 32768.0, sampling_rate=16_000, truncation=False)
    window = numpy.zeros((1, 80, 3000), numpy.float32)
    window[0, :, :400] = features["input_features"][0][:, :400]
    token = int(model.detect_language(input_features=torch.from_numpy(window))[0])
    names = {number: name for name, number in model.generation_config.lang_to_id.items()}
    assert transcribed(transcriber, samples)[0].language == names[token].strip("<|>")


def test_a_prompt_comes_before_every_window(loaded):
    transcriber, model, tokenizer = loaded
    samples = noise(5.0)
    events = transcribed(transcriber, samples, language="fr", prompt="abc")
    ids = tokenizer.encode("<|startofprev|> abc", add_special_tokens=False)
    expected = generated(model, samples, language="fr", task="transcribe", prompt_ids=torch.tensor(ids))
    heard = [list(event.tokens) for event in events if isinstance(event, Segment)]
    assert heard[0] == expected[0][: len(heard[0])]
    assert heard[0] != list(transcribed(transcriber, samples, language="fr")[1].tokens)


def test_words_lie_within_the_recording(loaded):
    transcriber, *_ = loaded
    events = transcribed(
        transcriber, noise(8.0), language="en", response_format="verbose_json", timestamp_granularities=["word"]
    )
    segments = [event for event in events if isinstance(event, Segment)]
    words = [word for segment in segments for word in segment.words]
    assert words
    assert all(0 <= word.start <= word.end <= 8.01 for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)
    for segment in segments:
        assert "".join(word.word for word in segment.words) == segment.text


def test_figures_are_there(loaded):
    segment = transcribed(loaded[0], noise(5.0), language="en")[1]
    assert segment.avg_logprob < 0
    assert 0 <= segment.no_speech_prob < 0.6
    assert segment.compression_ratio > 0


def test_sampling_takes_the_temperature(loaded):
    torch.manual_seed(1)
    segment = transcribed(loaded[0], noise(5.0), language="en", temperature=0.9)[1]
    assert segment.temperature == 0.9


def test_a_model_of_english_refuses_to_translate(tiny_whisper, tmp_path):
    tiny_whisper(tmp_path / "tiny.en", multilingual=False)
    source = resolve_named(str(tmp_path / "tiny.en"), "audio")
    transcriber = load_listener(source, device="cpu", threads=1, progress=lambda text, part: None)
    assert (transcriber.languages, transcriber.translates) == ({"en"}, False)
    assert isinstance(transcribed(transcriber, noise(3.0))[1], Segment)
    for options, param in (({"translate": True}, "model"), ({"language": "de"}, "language")):
        with pytest.raises(GatewayError) as caught:
            transcribed(transcriber, noise(1.0), **options)
        assert (caught.value.kind, caught.value.param) == (Kind.CAPABILITY, param)
