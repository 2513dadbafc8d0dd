"""Samples into what Whisper hears: the logarithm of a mel spectrogram, made and kept in blocks.

An hour of sound is 115 MB so; made at once, its Fourier transform alone would take half a gigabyte.
"""

from dataclasses import dataclass
from typing import Any

import numpy

WINDOW_FRAMES = 3000
"""Frames in one window of 30 seconds."""

FRAMES_PER_SECOND = 100

_TRANSFORM = 400
_HOP = 160
_BLOCK_FRAMES = 3000
_SILENCE = 1e-10
_RANGE = 8.0
"""Powers of ten below the loudest spot, under which everything counts as silent."""


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """One recording.

    Args:
        blocks: decimal logarithms of the energy, float32, each (mels, frames).
        frames: how many hundredths of a second it has.
        loudest: the highest value in it.
        seconds: its length.
    """

    blocks: tuple[Any, ...]
    frames: int
    loudest: float
    seconds: float

    def window(self, start: int) -> Any:
        """Return the 30 seconds from frame `start`: float32 (mels, 3000), zeros behind the end of the recording."""
        stop = min(start + WINDOW_FRAMES, self.frames)
        pieces, at = [], 0
        for block in self.blocks:
            first, last = max(start - at, 0), min(stop - at, block.shape[1])
            if first < last:
                pieces.append(block[:, first:last])
            at += block.shape[1]
        heard = numpy.concatenate(pieces, axis=1)
        window = numpy.zeros((heard.shape[0], WINDOW_FRAMES), numpy.float32)
        window[:, : heard.shape[1]] = (numpy.maximum(heard, numpy.float32(self.loudest - _RANGE)) + 4.0) / 4.0
        return window


class LogMel:
    """Feed samples, get a `Spectrogram`.

    Args:
        filters: the mel filter bank, float32 (mels, 201).
        padding: samples of silence behind the recording, which one implementation of Whisper adds and another does not.
    """

    def __init__(self, filters: Any, *, padding: int = 0) -> None:
        self._filters = numpy.ascontiguousarray(filters, numpy.float32)
        self._padding = padding
        self._window: Any = numpy.hanning(_TRANSFORM + 1)[:-1].astype(numpy.float32)
        self._samples: Any = numpy.zeros(0, numpy.float32)
        self._blocks: list[Any] = []
        self._count = 0

    def feed(self, samples: Any) -> None:
        """Take the next samples: int16 (n,), n of any size, a few hundred in the first call at least."""
        fresh = samples.astype(numpy.float32) / 32768.0
        if not self._count:  # frames are centred: the first half of the first one is a reflection
            fresh = numpy.concatenate([fresh[_TRANSFORM // 2 : 0 : -1], fresh])
        self._count += len(samples)
        self._samples = numpy.concatenate([self._samples, fresh])
        if len(self._samples) >= _BLOCK_FRAMES * _HOP + _TRANSFORM:
            self._transform()

    def close(self) -> Spectrogram:
        """Return what all samples together have become."""
        end = numpy.concatenate([self._samples, numpy.zeros(self._padding, numpy.float32)])
        half = _TRANSFORM // 2
        self._samples = numpy.concatenate([end, end[-2 : -half - 2 : -1]])
        self._transform()
        self._blocks[-1] = self._blocks[-1][:, :-1]  # the frame behind the end, which Whisper never sees
        loudest = max((float(block.max()) for block in self._blocks if block.size), default=0.0)
        return Spectrogram(tuple(self._blocks), self._count // _HOP, loudest, self._count / 16_000)

    def _transform(self) -> None:
        count = (len(self._samples) - _TRANSFORM) // _HOP + 1
        for start in range(0, count, _BLOCK_FRAMES):
            frames = min(_BLOCK_FRAMES, count - start)
            part = self._samples[start * _HOP : (start + frames - 1) * _HOP + _TRANSFORM]
            rows = numpy.lib.stride_tricks.sliding_window_view(part, _TRANSFORM)[::_HOP]
            power = numpy.abs(numpy.fft.rfft(rows * self._window).astype(numpy.complex64)) ** 2
            mel = self._filters @ power.T
            self._blocks.append(numpy.log10(numpy.maximum(mel, _SILENCE)))
        self._samples = self._samples[count * _HOP :].copy()
