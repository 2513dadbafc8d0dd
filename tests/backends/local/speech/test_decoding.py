"""Files of sound: every format that clients send, and what is no sound."""

import pytest

av = pytest.importorskip("av", reason="the extra `audio` is not installed")
numpy = pytest.importorskip("numpy")

from backends.local.speech.recordings import CODECS, RIVER, encoded, samples_of, tone  # noqa: E402
from illm.backends.local.speech.decoding import decoded  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

pytestmark = pytest.mark.model

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"


def heard(audio: bytes, longest: float = 60.0) -> numpy.ndarray:
    return numpy.concatenate(list(decoded(audio, longest=longest)))


def refused(audio: bytes, kind: Kind = Kind.INVALID_REQUEST, longest: float = 60.0) -> None:
    with pytest.raises(GatewayError) as caught:
        heard(audio, longest)
    assert (caught.value.kind, caught.value.param) == (kind, "file")


@pytest.mark.parametrize("container", CODECS)
def test_a_tone_comes_back_from_every_format(container):
    samples = heard(encoded(tone(2.5), container))
    assert samples.dtype == numpy.int16
    assert abs(len(samples) / 16_000 - 2.5) < 0.15
    spectrum = numpy.abs(numpy.fft.rfft(samples[8000:24000]))
    assert spectrum.argmax() == 440


@pytest.mark.parametrize(("rate", "layout"), [(8_000, "mono"), (44_100, "stereo"), (96_000, "5.1")])
def test_rates_and_channels_become_one(rate, layout):
    samples = heard(encoded(tone(1.0), "wav", rate=rate, layout=layout))
    assert abs(len(samples) - 16_000) < 200


def test_samples_are_those_of_a_plain_decoder():
    audio = RIVER.read_bytes()
    assert numpy.array_equal(heard(audio), samples_of(audio))


def test_sound_comes_in_pieces():
    sizes = [len(piece) for piece in decoded(encoded(tone(20.0), "flac"), longest=60.0)]
    assert len(sizes) >= 15
    assert max(sizes) < 3 * 16_000


@pytest.mark.parametrize(
    "junk",
    [b"", b"RIFF", b"not sound at all " * 100, bytes(4096), bytes(range(256)) * 40, b"\xff\xfb\x90\x00" * 3],
    ids=["empty", "head", "text", "zeros", "bytes", "mp3-like"],
)
def test_what_is_no_sound_is_refused(junk):
    refused(junk)


@pytest.mark.parametrize("container", sorted(CODECS.keys() - {"ipod"}))
def test_a_file_cut_off_is_heard_as_far_as_it_goes(container):
    whole = encoded(tone(4.0), container)
    assert 1.0 < len(heard(whole[: len(whole) // 2])) / 16_000 < 4.0


def test_a_file_without_its_index_is_refused():
    whole = encoded(tone(4.0), "ipod")
    refused(whole[: len(whole) // 2])


def test_a_file_cut_off_in_its_head_is_refused():
    refused(encoded(tone(1.0), "flac")[:60])


def test_what_is_too_short_is_refused():
    refused(encoded(tone(0.05), "wav"))


def test_what_is_too_long_is_refused_while_it_is_decoded():
    audio = encoded(tone(30.0), "flac")
    assert len(heard(audio, longest=31.0)) > 29 * 16_000
    refused(audio, Kind.TOO_LARGE, longest=10.0)


def test_a_list_of_other_files_is_not_opened(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(tone(1.0), "wav"))
    for text in (PLAYLIST.format(secret), PLAYLIST.format(secret.as_uri()), f"ffconcat version 1.0\nfile {secret}\n"):
        refused(text.encode())
