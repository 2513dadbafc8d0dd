"""One choice's text as events: first its reasoning is split off, then its calls, and the rest is content."""

import secrets
import string
from collections.abc import Callable, Sequence

from illm.backends.local.answers.call_reader import CallReader
from illm.backends.local.answers.eraser import Eraser
from illm.backends.local.answers.pieces import Arguments, Called, Ended, Piece, Said, Thought
from illm.backends.local.answers.thinking import ThinkingReader
from illm.core.events import Delta, Event, Reasoning, ToolDelta

_ALPHANUMERIC = string.ascii_letters + string.digits


def call_id() -> str:
    """Return a new id in OpenAI's manner."""
    return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """Return a new id as Mistral's templates insist on: nine letters and digits."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


class AnswerReader:
    """One choice.

    Args:
        index: the choice's.
        thinking: splits off reasoning, where the model reasons.
        calls: finds calls, where tools were offered.
        hidden: control tokens that no client should see.
        one: end after the first call.
        ending: the finish reason of an answer that called.
        new_id: makes the calls' ids.

    Attributes:
        enough: the one call that was asked for is complete, and nothing after it matters.
    """

    def __init__(
        self,
        index: int,
        *,
        thinking: ThinkingReader | None = None,
        calls: CallReader | None = None,
        hidden: Sequence[str] = (),
        one: bool = False,
        ending: str = "tool_calls",
        new_id: Callable[[], str] = call_id,
    ) -> None:
        self.enough = False
        self._index = index
        self._thinking = thinking
        self._calls = calls
        self._eraser = Eraser(hidden) if hidden else None
        self._one = one
        self._ending = ending
        self._new_id = new_id
        self._count = 0

    @property
    def thinks(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._thinking is not None and self._thinking.open

    def feed(self, text: str) -> list[Event]:
        """Return what this text makes clear."""
        if self._thinking is None:
            return self._events(self._split([Said(text)]))
        return self._events(self._split(self._thinking.feed(text)))

    def close(self) -> list[Event]:
        """Return what was held back: the text has ended."""
        pieces = self._split(self._thinking.close()) if self._thinking is not None else []
        if self._calls is not None:
            pieces += self._calls.close()
        events = self._events(pieces)
        if self._eraser is not None and (text := self._eraser.close()) and not self.enough:
            events.append(Delta(self._index, text))
        return events

    def reason(self, engine: str) -> str:
        """Return the finish reason, given the engine's."""
        return self._ending if self._count and engine == "stop" else engine

    def _split(self, pieces: Sequence[Piece]) -> list[Piece]:
        if self._calls is None:
            return list(pieces)
        out: list[Piece] = []
        for piece in pieces:
            out += self._calls.feed(piece.text) if isinstance(piece, Said) else [piece]
        return out

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if self.enough:
                break
            match piece:
                case Said(text):
                    shown = text if self._eraser is None else self._eraser.feed(text)
                    if shown:
                        events.append(Delta(self._index, shown))
                case Thought(text):
                    events.append(Reasoning(self._index, text))
                case Called(name):
                    self._count += 1
                    events.append(ToolDelta(self._index, self._count - 1, id=self._new_id(), name=name))
                case Arguments(text):
                    events.append(ToolDelta(self._index, self._count - 1, text))
                case Ended():
                    self.enough = self._one
        return events
