"""Whisper on CTranslate2, by way of faster-whisper: its decoding of a window with all its defaults, in our walk."""

from collections.abc import Sequence
from logging import ERROR
from pathlib import Path
from typing import Any

import ctranslate2
import numpy
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from illm.backends.local.speech.spectrogram import LogMel, Spectrogram
from illm.backends.local.speech.transcriber import Heard, Piece, Wish
from illm.backends.local.speech.words import CLOSING, OPENING
from illm.core.events import Word

_PADDING = 160


class FasterWhisper:
    """See `Transcriber`.

    Args:
        served: the id clients use.
        directory: of a model that was converted for CTranslate2.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: of the matrix products.
    """

    def __init__(self, served: str, directory: Path, *, device: str, threads: int) -> None:
        kind, _, index = device.partition(":")
        self.served = served
        ctranslate2.set_log_level(ERROR)  # it would warn, past our log, that half precision became single on a CPU
        self._model = WhisperModel(str(directory), device=kind, device_index=int(index or 0), cpu_threads=threads)
        self.languages = frozenset(self._model.supported_languages)
        self.translates = bool(self._model.model.is_multilingual)
        self.times_words = True

    def log_mel(self) -> LogMel:
        """See `Transcriber.log_mel`."""
        return LogMel(self._model.feature_extractor.mel_filters, padding=_PADDING)

    def listener(self, sound: Spectrogram, wish: Wish) -> "FasterListener":
        """See `Transcriber.listener`."""
        language = wish.language
        if language is None:
            language = self._model.detect_language(features=sound.window(0))[0] if self.translates else "en"
        return FasterListener(self._model, language, wish)


class FasterListener:
    """See `Listener`."""

    def __init__(self, model: Any, language: str, wish: Wish) -> None:
        self.language = language
        task = "translate" if wish.translate else "transcribe"
        self._model = model
        self._tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task=task, language=language)
        self.time_zero: int = self._tokenizer.timestamp_begin
        self.prompt: list[int] = self._tokenizer.encode(" " + wish.prompt.strip()) if wish.prompt else []
        # The library's own way from arguments to options, defaults included: it listens lazily, so this costs nothing.
        sampled = {"temperature": wish.temperature} if wish.temperature else {}
        _, info = model.transcribe(numpy.zeros(1600, numpy.float32), language=language, task=task, **sampled)
        self._options = info.transcription_options
        self._encoded: Any = None

    def hear(self, window: Any, before: Sequence[int]) -> Heard:
        """See `Listener.hear`."""
        self._encoded = self._model.encode(window)
        prompt = self._model.get_prompt(self._tokenizer, list(before))
        result, avg_logprob, temperature, ratio = self._model.generate_with_fallback(
            self._encoded, prompt, self._tokenizer, self._options
        )
        return Heard(
            list(result.sequences_ids[0]), temperature, float(avg_logprob), float(ratio), float(result.no_speech_prob)
        )

    def text(self, tokens: Sequence[int]) -> str:
        """See `Listener.text`."""
        return str(self._tokenizer.decode(list(tokens)))

    def time_words(self, pieces: Sequence[Piece], seek: int, frames: int, after: float) -> None:
        """See `Listener.time_words`."""
        rows: list[dict[str, Any]] = [
            {"seek": seek, "start": piece.start, "end": piece.end, "tokens": piece.tokens} for piece in pieces
        ]
        self._model.add_word_timestamps([rows], self._tokenizer, self._encoded, frames, OPENING, CLOSING, after)
        for piece, row in zip(pieces, rows, strict=True):
            piece.start, piece.end = float(row["start"]), float(row["end"])
            piece.words = tuple(
                Word(word["word"], float(word["start"]), float(word["end"])) for word in row.get("words", ())
            )
