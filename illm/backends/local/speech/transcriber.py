"""What an engine that listens has to offer; the walk through a recording (`sequential`) is the same for all of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from illm.backends.local.speech.spectrogram import LogMel, Spectrogram
from illm.core.events import Word


@dataclass(frozen=True, slots=True)
class Wish:
    """How a recording is to be heard.

    Args:
        language: ISO 639 code of the speech; None to find out.
        prompt: what came before it, for names and style.
        temperature: of sampling; None or 0 for greedy.
        translate: into English.
        words: whether the time of each word is wanted.
    """

    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    translate: bool = False
    words: bool = False


@dataclass(slots=True)
class Heard:
    """What a model made of one window: text and time tokens, its decoder's figures, and the temperature it took."""

    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(slots=True)
class Piece:
    """A stretch of a window between two time tokens; `at` is where its tokens begin in those of the window."""

    start: float
    end: float
    tokens: list[int]
    at: int
    words: tuple[Word, ...] | None = None


class Listener(Protocol):
    """One engine on one recording.

    `language` is what is spoken, `time_zero` the token that stands for a window's beginning (each higher one for 20 ms
    more), `prompt` the tokens of the wish's prompt.
    """

    language: str
    time_zero: int
    prompt: list[int]

    def hear(self, window: Any, before: Sequence[int]) -> Heard:
        """Decode a window, (mels, 3000), after the text `before`."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without those that stand for time."""

    def time_words(self, pieces: Sequence[Piece], seek: int, frames: int, after: float) -> None:
        """Give the pieces of the window that was heard last the times of their words; may move their ends.

        Args:
            pieces: all of the window, changed in place.
            seek: the window's first frame.
            frames: how many of its frames are sound.
            after: seconds at which the words before this window ended.
        """


class Transcriber(Protocol):
    """A loaded model.  `log_mel` may be called from any thread, `listener` from the one that loaded the model.

    `languages` are the codes it understands, `translates` and `times_words` whether it can.
    """

    @property
    def served(self) -> str:
        """The id clients use."""

    @property
    def languages(self) -> Collection[str]:
        """Codes."""

    @property
    def translates(self) -> bool:
        """Into English."""

    @property
    def times_words(self) -> bool:
        """And not only segments."""

    def log_mel(self) -> LogMel:
        """Return what will make the spectrogram of a recording."""

    def listener(self, sound: Spectrogram, wish: Wish) -> Listener:
        """Begin a recording: find out its language where the wish leaves it open, which is one pass of the model."""
