"""Whisper on Transformers: one call of `generate` a window, greedy unless a temperature is asked for."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from illm.backends.local.speech.spectrogram import FRAMES_PER_SECOND, LogMel, Spectrogram
from illm.backends.local.speech.transcriber import Heard, Piece, Wish
from illm.backends.local.speech.words import Timed, words_of
from illm.core.languages import LANGUAGES


@dataclass(frozen=True, slots=True)
class Parts:
    """What a recording's listener needs of a loaded model."""

    model: Any
    tokenizer: Any
    device: str
    time_zero: int
    no_speech: int
    end: int
    multilingual: bool


class Whisper:
    """See `Transcriber`.

    Args:
        served: the id clients use.
        model: a `WhisperForConditionalGeneration`, in eval mode, on its device.
        tokenizer: its tokenizer.
        extractor: its `WhisperFeatureExtractor`, for the mel filters.
        device: torch's name for it.
    """

    def __init__(self, served: str, model: Any, tokenizer: Any, extractor: Any, *, device: str) -> None:
        self.served = served
        settings = model.generation_config
        settings.return_dict_in_generate = settings.output_scores = True
        multilingual = bool(getattr(settings, "is_multilingual", False) and getattr(settings, "lang_to_id", None))
        time_zero = int(settings.no_timestamps_token_id) + 1
        end = settings.eos_token_id
        # The token before the one that forbids time: that nothing is spoken.
        self._parts = Parts(
            model, tokenizer, device, time_zero, time_zero - 2, end if isinstance(end, int) else end[0], multilingual
        )
        self._filters = extractor.mel_filters.T
        known = {token.strip("<|>") for token in settings.lang_to_id} if multilingual else {"en"}
        self.languages = frozenset(known & LANGUAGES.keys())
        self.translates = multilingual and "translate" in getattr(settings, "task_to_id", {})
        self.times_words = bool(getattr(settings, "alignment_heads", None))

    def log_mel(self) -> LogMel:
        """See `Transcriber.log_mel`."""
        return LogMel(self._filters)

    def listener(self, sound: Spectrogram, wish: Wish) -> "WhisperListener":
        """See `Transcriber.listener`."""
        language = wish.language or ("en" if not self._parts.multilingual else self._detect(sound))
        return WhisperListener(self._parts, language, wish)

    def _detect(self, sound: Spectrogram) -> str:
        model = self._parts.model
        window = torch.from_numpy(sound.window(0))[None].to(self._parts.device, model.dtype)
        token = int(model.detect_language(input_features=window)[0])
        names = {number: name for name, number in model.generation_config.lang_to_id.items()}
        return str(names[token].strip("<|>"))


class WhisperListener:
    """See `Listener`."""

    def __init__(self, parts: Parts, language: str, wish: Wish) -> None:
        self.language = language
        self.time_zero = parts.time_zero
        self._parts, self._wish = parts, wish
        tokenizer = parts.tokenizer
        text = " " + wish.prompt.strip() if wish.prompt and wish.prompt.strip() else ""
        longest = parts.model.config.max_target_positions // 2 - 1
        # As in the original, of a long prompt the end counts.
        self.prompt: list[int] = tokenizer.encode(text, add_special_tokens=False)[-longest + 1 :] if text else []
        self._times: list[float] = []

    def hear(self, window: Any, before: Sequence[int]) -> Heard:
        """See `Listener.hear`.  As `generate` does by default, what was heard before does not count."""
        with torch.inference_mode():
            return self._hear(window)

    def _hear(self, window: Any) -> Heard:
        model, wish = self._parts.model, self._wish
        features = torch.from_numpy(window)[None].to(self._parts.device, model.dtype)
        encoded = model.get_encoder()(features)
        begin = self._begin()
        options: dict[str, Any] = {"temperature": wish.temperature or 0.0}
        if self._parts.multilingual:
            options |= {"language": self.language, "task": "translate" if wish.translate else "transcribe"}
        if self.prompt:
            options["prompt_ids"] = torch.tensor(begin[:-1], device=self._parts.device)
        if wish.words:
            options |= {"return_token_timestamps": True, "attention_mask": self._mask(window)}
        made = model.generate(
            encoder_outputs=encoded,
            return_timestamps=True,
            return_dict_in_generate=True,
            force_unique_generate_call=True,
            **options,
        )
        # Whatever came before the first score was given, not written.
        given = made["sequences"].shape[1] - len(made["scores"])
        tokens = made["sequences"][0, given:].tolist()
        if wish.words:
            self._times = made["token_timestamps"][0, given:].tolist()
        avg_logprob = _average(made["scores"], tokens, wish.temperature or 1.0)
        silence = self._silence(encoded, begin)
        tokens = tokens[: tokens.index(self._parts.end)] if self._parts.end in tokens else tokens
        text = self.text(tokens).strip().encode()
        ratio = len(text) / len(zlib.compress(text)) if text else 0.0
        return Heard(tokens, wish.temperature or 0.0, avg_logprob, ratio, silence)

    def text(self, tokens: Sequence[int]) -> str:
        """See `Listener.text`."""
        plain = [token for token in tokens if token < self._parts.end]
        return str(self._parts.tokenizer.decode(plain, clean_up_tokenization_spaces=False))

    def time_words(self, pieces: Sequence[Piece], seek: int, frames: int, after: float) -> None:
        """See `Listener.time_words`."""
        offset, last = seek / FRAMES_PER_SECOND, frames / FRAMES_PER_SECOND
        for piece in pieces:
            timed = []
            for at, token in enumerate(piece.tokens, piece.at):
                if token < self._parts.end:
                    until = self._times[at + 1] if at + 1 < len(self._times) else last
                    start, end = min(self._times[at], last), min(max(until, self._times[at]), last)
                    timed.append(Timed(token, round(offset + start, 2), round(offset + end, 2)))
            piece.words = words_of(timed, self.text, self.language)

    def _begin(self) -> list[int]:
        start = int(self._parts.model.generation_config.decoder_start_token_id)
        if not self.prompt:
            return [start]
        previous = self._parts.tokenizer.convert_tokens_to_ids("<|startofprev|>")
        return [previous, *self.prompt, start]

    def _mask(self, window: Any) -> Any:
        return torch.ones(1, window.shape[1], dtype=torch.long, device=self._parts.device)

    def _silence(self, encoded: Any, begin: list[int]) -> float:
        tokens = torch.tensor([begin], device=self._parts.device)
        logits = self._parts.model(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False).logits
        return float(logits[0, -1].float().softmax(-1)[self._parts.no_speech])


def _average(scores: Any, tokens: Sequence[int], temperature: float) -> float:
    """Return the mean log-probability of what was chosen, at temperature 1."""
    if not tokens:
        return 0.0
    chosen = [
        float((row[0].float() * temperature).log_softmax(-1)[token]) for row, token in zip(scores, tokens, strict=True)
    ]
    return sum(chosen) / len(chosen)
