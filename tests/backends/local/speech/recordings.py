"""Real speech in a few kilobytes, and other sound made from nothing."""

import io
import re
from pathlib import Path

import av
import numpy

RIVER = Path(__file__).parent / "river.ogg"
"""A sentence that eSpeak NG spoke (`espeak-ng -v en-gb -s 130`), as Opus of 16 kbit/s."""

WORDS = ["my", "name", "is", "peter", "and", "i", "live", "in", "a", "small", "house", "near", "the", "river"]

CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "mp3",
    "ogg": "libopus",
    "ipod": "aac",
    "webm": "libopus",
}
"""A container's name in FFmpeg (`ipod` is m4a) to a codec for it."""


def samples_of(audio: bytes) -> numpy.ndarray:
    """Return a file's samples, decoded in the plainest way: int16 at 16 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(io.BytesIO(audio)) as container:
        frames = [*container.decode(audio=0), None]
        return numpy.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])


def encoded(samples: numpy.ndarray, container: str, *, rate: int = 48_000, layout: str = "stereo") -> bytes:
    """Return samples (int16, 16 kHz) as a file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(CODECS[container], rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(
            format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            for packet in stream.encode(piece):
                out.mux(packet)
    return buffer.getvalue()


def tone(seconds: float, *, hertz: float = 440.0) -> numpy.ndarray:
    at = numpy.arange(round(seconds * 16_000)) / 16_000
    return (numpy.sin(2 * numpy.pi * hertz * at) * 8000).astype(numpy.int16)


def plain_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(said: list[str], heard: list[str]) -> int:
    """Return how many words have to be changed, added or left out."""
    row = list(range(len(heard) + 1))
    for at, word in enumerate(said, 1):
        last, row[0] = row[0], at
        for index, other in enumerate(heard, 1):
            last, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, last + (word != other))
    return row[-1]
