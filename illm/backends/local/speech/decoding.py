"""A file of sound into samples: 16 kHz, one channel, in pieces, so that a long file never lies in memory decoded.

Only formats that are named here are opened.  FFmpeg knows others that are lists of further files and addresses, which
it would open on behalf of whoever uploads one.
"""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import av
import numpy
from av.audio.resampler import AudioResampler

from illm.errors import GatewayError, Kind

SAMPLE_RATE = 16_000
"""Hertz; what Whisper was trained on."""

SHORTEST = 0.1
"""Seconds; OpenAI's limit, and less than one syllable."""

_FORMATS = "wav,w64,flac,mp3,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,aiff,mpeg"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
_LOWEST_RATE = 2_000
_HIGHEST_RATE = 768_000


def decoded(audio: bytes, *, longest: float) -> Iterator[Any]:
    """Yield the samples of a file.

    Args:
        audio: the file: wav, flac, mp3, ogg, mp4/m4a, webm and a few more, whatever it is called.
        longest: seconds that it may last.

    Yields:
        int16 arrays of one dimension, at `SAMPLE_RATE`, a second or so each.

    Raises:
        GatewayError: it is no sound that can be decoded, or too short (400), or too long (413); `param` is `file`.
    """
    limit = round(longest * SAMPLE_RATE)
    count = 0
    try:
        for samples in _samples(audio):
            count += len(samples)
            if count > limit:
                raise GatewayError(
                    Kind.TOO_LARGE,
                    f"The audio is longer than {longest:g} seconds, the most that is heard.",
                    param="file",
                )
            yield samples
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise GatewayError(
            Kind.INVALID_REQUEST, "The file is not sound in a format that can be decoded.", param="file"
        ) from error
    if count < SHORTEST * SAMPLE_RATE:
        raise GatewayError(
            Kind.INVALID_REQUEST, f"The audio is shorter than {SHORTEST:g} seconds, or damaged.", param="file"
        )


def _samples(audio: bytes) -> Iterator[Any]:
    with av.open(BytesIO(audio), mode="r", options=_OPTIONS, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise ValueError("no stream of sound")
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        gathered: list[Any] = []
        size = 0
        for frame in _frames(container):
            for piece in resampler.resample(frame):
                gathered.append(piece.to_ndarray().reshape(-1))
                size += len(gathered[-1])
            # A codec's frame is some milliseconds; handed on one by one they would cost more than their decoding.
            if size >= SAMPLE_RATE:
                yield numpy.concatenate(gathered)
                gathered, size = [], 0
        if gathered:
            yield numpy.concatenate(gathered)


def _frames(container: Any) -> Iterator[Any]:
    """Yield the frames of the first stream of sound, past damaged packets, then None, which empties a resampler."""
    frames = container.decode(audio=0)
    while True:
        try:
            frame = next(frames, None)
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
        if frame is None:
            break
        if not _LOWEST_RATE <= frame.sample_rate <= _HIGHEST_RATE:
            raise ValueError("an impossible sample rate")
        frame.pts = None  # those of broken files contradict each other
        yield frame
    yield None
