"""Spectrograms made in blocks are those made at once."""

import pytest

numpy = pytest.importorskip("numpy")
faster_whisper = pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from backends.local.speech.recordings import RIVER, samples_of  # noqa: E402
from illm.backends.local.speech.spectrogram import WINDOW_FRAMES, LogMel  # noqa: E402

pytestmark = pytest.mark.model

EXTRACTOR = faster_whisper.feature_extractor.FeatureExtractor()


def in_pieces(samples, sizes, padding):
    log_mel = LogMel(EXTRACTOR.mel_filters, padding=padding)
    at = 0
    while at < len(samples):
        size = sizes.pop() if sizes else 16_000
        log_mel.feed(samples[at : at + size])
        at += size
    return log_mel.close()


def joined(sound):
    windows = [sound.window(start) for start in range(0, sound.frames, WINDOW_FRAMES)]
    return numpy.concatenate(windows, axis=1)[:, : sound.frames]


@settings(max_examples=15, deadline=None)
@given(st.integers(1600, 1_100_000), st.lists(st.integers(201, 200_000), max_size=6), st.integers(0, 2**32 - 1))
def test_blocks_change_nothing(count, sizes, seed):
    samples = numpy.random.default_rng(seed).integers(-9000, 9000, count, dtype=numpy.int16)
    sound = in_pieces(samples, sizes, 160)
    expected = EXTRACTOR(samples.astype(numpy.float32) / 32768.0)
    assert sound.frames == count // 160 == expected.shape[1] - 1
    assert sound.seconds == count / 16_000
    assert numpy.allclose(joined(sound), expected[:, : sound.frames], atol=2e-5)


def test_as_transformers_makes_it():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    extractor = transformers.WhisperFeatureExtractor()
    samples = numpy.tile(samples_of(RIVER.read_bytes()), 12)
    log_mel = LogMel(extractor.mel_filters.T)
    log_mel.feed(samples)
    sound = log_mel.close()
    made = extractor(samples.astype(numpy.float32) / 32768.0, sampling_rate=16_000, truncation=False, padding="longest")
    expected = made["input_features"][0]
    assert sound.frames == expected.shape[1] > WINDOW_FRAMES
    assert numpy.allclose(joined(sound), expected, atol=1e-4)


def test_a_window_is_filled_with_silence():
    samples = samples_of(RIVER.read_bytes())
    sound = in_pieces(samples, [], 0)
    window = sound.window(sound.frames - 10)
    assert window.shape == (80, WINDOW_FRAMES)
    assert window[:, :10].any()
    assert not window[:, 10:].any()
