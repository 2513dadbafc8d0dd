"""Speech on one model: a step is one window of 30 seconds, and calls take turns, so that an hour holds nobody up."""

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from illm.backends.local.work import Batch, Gradual
from illm.core.events import Done, Event, Failed, Recording, Usage
from illm.core.languages import language_code
from illm.core.requests import Request, Transcribe
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:  # what listens comes with the model, and tests of this file need none
    from illm.backends.local.speech.sequential import Step
    from illm.backends.local.speech.spectrogram import Spectrogram
    from illm.backends.local.speech.transcriber import Listener, Transcriber, Wish

logger = logging.getLogger("illm.local")

HONOURED = frozenset(
    {"language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities", "user"}
)
"""Fields of a form that this backend fulfils; `user` changes no answer anywhere."""

_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_STREAMED = ("json", "text")

_LONG = 120.0
"""Seconds; the progress of longer recordings is worth a line in the log."""

_POSITIONS_PER_SECOND = 50
"""What the encoder makes of a second: the input that is counted."""


@dataclass(frozen=True, slots=True)
class PreparedSpeech:
    """A recording that has been decoded, and how to hear it."""

    sound: "Spectrogram"
    wish: "Wish"


@dataclass(slots=True)
class Hearing:
    """One call: what is still to do, and how far it is."""

    prepared: PreparedSpeech
    listener: "Listener | None" = None
    steps: "Iterator[Step] | None" = None
    tokens: int = 0
    began: float = 0.0
    told: int = 0


class AudioWork:
    """See `Work`.

    Args:
        transcriber: the model, loaded in the same thread.
        longest: seconds of a recording.
    """

    def __init__(self, transcriber: "Transcriber", longest: float) -> None:
        self._transcriber = transcriber
        self._longest = longest
        self._calls: dict[int, Hearing] = {}
        self._windows = 0
        self._seconds = 0.0

    def prepare(self, request: Request) -> Gradual:
        """See `Work.prepare`."""
        assert isinstance(request, Transcribe)  # noqa: S101 - the directory has looked at the capability
        return Gradual(self._decoded(request.audio, wish_of(request, self._transcriber)))

    def _decoded(self, audio: bytes, wish: "Wish") -> Generator[PreparedSpeech | None, None, None]:
        """Decode a second or so at a time."""
        from illm.backends.local.speech.decoding import decoded

        began = monotonic()
        log_mel = self._transcriber.log_mel()
        for samples in decoded(audio, longest=self._longest):
            log_mel.feed(samples)
            yield None
        sound = log_mel.close()
        if sound.seconds >= _LONG:
            logger.info("%s: decoded %.0f s of sound in %.1f s", self._name, sound.seconds, monotonic() - began)
        yield PreparedSpeech(sound, wish)

    def add(self, key: int, prepared: PreparedSpeech) -> None:
        """See `Work.add`."""
        self._calls[key] = Hearing(prepared)

    def abort(self, key: int) -> None:
        """See `Work.abort`."""
        self._calls.pop(key, None)

    def step(self) -> Batch:
        """See `Work.step`."""
        if not self._calls:
            return []
        key, call = next(iter(self._calls.items()))
        try:
            events = self._begin(call) if call.steps is None else self._go_on(key, call)
        except Exception as error:  # what one recording does to the model is its own affair
            failure = GatewayError(Kind.INTERNAL, "The recording could not be heard")
            failure.__cause__ = error
            events = (Failed(failure),)
        del self._calls[key]
        if not (events and isinstance(events[-1], Done | Failed)):
            self._calls[key] = call  # at the back of the line
        return [(key, events)] if events else []

    @property
    def busy(self) -> bool:
        """See `Work.busy`."""
        return bool(self._calls)

    def describe(self) -> dict[str, Any]:
        """See `Work.describe`."""
        seconds = round(self._seconds, 1)
        return {"engine": {"running": len(self._calls), "windows": self._windows, "seconds": seconds}}

    @property
    def _name(self) -> str:
        return self._transcriber.served

    def _begin(self, call: Hearing) -> tuple[Event, ...]:
        from illm.backends.local.speech.sequential import walk

        sound, wish = call.prepared.sound, call.prepared.wish
        call.began = monotonic()
        call.listener = self._transcriber.listener(sound, wish)
        call.steps = walk(call.listener, sound, words=wish.words)
        return (Recording(sound.seconds, call.listener.language),)

    def _go_on(self, key: int, call: Hearing) -> tuple[Event, ...]:
        assert call.steps is not None  # noqa: S101 - `step` has looked
        step = next(call.steps)
        sound = call.prepared.sound
        self._windows += 1
        call.tokens += step.tokens
        self._report(key, call, step.position / max(sound.frames, 1))
        if step.position < sound.frames:
            return step.segments
        self._seconds += sound.seconds
        return (*step.segments, Done(self._usage(call)))

    def _report(self, key: int, call: Hearing, part: float) -> None:
        tenth = int(part * 10)
        if call.prepared.sound.seconds >= _LONG and tenth > call.told:
            call.told = tenth
            spent = monotonic() - call.began
            logger.info(
                "%s: recording %d is at %d %% of %.0f s, after %.1f s",
                *(self._name, key, tenth * 10, call.prepared.sound.seconds, spent),
            )

    def _usage(self, call: Hearing) -> Usage:
        prompt = len(call.listener.prompt) if call.listener is not None else 0
        return Usage(round(call.prepared.sound.seconds * _POSITIONS_PER_SECOND) + prompt, call.tokens)


def wish_of(request: Transcribe, transcriber: "Transcriber") -> "Wish":
    """Return how a recording is to be heard.

    Raises:
        GatewayError: a field that would be ignored although it changes the answer (400, `param` names it), or
            something that this model cannot do (422).
    """
    from illm.backends.local.speech.transcriber import Wish

    fields = request.fields
    for name, value in fields.items():
        if name not in HONOURED and value not in ("", [], False):
            raise GatewayError(Kind.UNSUPPORTED_PARAMETER, f"The parameter '{name}' is not supported.", param=name)
    _check_format(fields.get("response_format", "json"), stream=bool(fields.get("stream")))
    granularities = fields.get("timestamp_granularities") or ()
    if granularities and fields.get("response_format") != "verbose_json":
        raise GatewayError(
            Kind.INVALID_REQUEST,
            "timestamp_granularities needs the response_format 'verbose_json'.",
            param="timestamp_granularities",
        )
    words = "word" in granularities
    if words and not transcriber.times_words:
        raise _cannot(transcriber, "tell the times of words", "timestamp_granularities")
    if request.translate and not transcriber.translates:
        raise _cannot(transcriber, "translate: it knows English only", "model")
    temperature = fields.get("temperature")
    return Wish(
        _language(fields.get("language"), transcriber), fields.get("prompt"), temperature, request.translate, words
    )


def _check_format(word: str, *, stream: bool) -> None:
    if word not in _FORMATS:
        raise GatewayError(
            Kind.UNSUPPORTED_PARAMETER, f"The format '{word}' is not supported.", param="response_format"
        )
    if stream and word not in _STREAMED:
        raise GatewayError(
            Kind.UNSUPPORTED_PARAMETER, f"A stream cannot have the format '{word}'.", param="response_format"
        )


def _language(named: str | None, transcriber: "Transcriber") -> str | None:
    if named is None:
        return None
    code = language_code(named)
    if code is None:
        raise GatewayError(
            Kind.INVALID_REQUEST, "language must be an ISO 639-1 code, such as 'en', or a name.", param="language"
        )
    if code not in transcriber.languages:
        raise _cannot(transcriber, f"understand the language '{code}'", "language")
    return code


def _cannot(transcriber: "Transcriber", what: str, param: str) -> GatewayError:
    return GatewayError(Kind.CAPABILITY, f"The model '{transcriber.served}' cannot {what}.", param=param)
