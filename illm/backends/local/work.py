"""What the engine thread does for an actor, whatever the model: the seam between threads and models.

`prepare` runs in the prompt threads, of which two may be in it at once; the rest runs in the engine thread.  Everything
here is synchronous and knows neither loop nor channel, so that it can be driven by a thread, a child process or a test.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from illm.core.events import Event
from illm.core.requests import Request

Batch = list[tuple[int, tuple[Event, ...]]]
"""Events by the key of the call they answer; an id whose events end in `Done` is finished."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What `prepare` returns where that was all there is to do: the engine never hears of the call."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Gradual:
    """What `prepare` returns where it takes long, so that nobody goes on with it for a caller who has left.

    Args:
        pieces: one piece is done with each item; the last item is what has been prepared.
    """

    pieces: Generator[Any, None, None]

    def through(self, useful: Callable[[], bool]) -> Any:
        """Do all pieces; return what has been prepared, or None as soon as one was done that is of no use any more."""
        prepared = None
        with closing(self.pieces):
            for piece in self.pieces:
                prepared = piece
                if not useful():
                    return None
        return prepared


class Describing(Protocol):
    """Something with counters."""

    def describe(self) -> dict[str, Any]:
        """Return counters for `/healthz`."""


class Work(Describing, Protocol):
    """One model's work."""

    def prepare(self, request: Request) -> Any:
        """Tokenise and check a request; `Answered` is an answer already, `Gradual` takes longer.

        Raises:
            GatewayError: it cannot be answered.
        """

    def add(self, key: int, prepared: Any) -> None:
        """Take up what `prepare` returned, as call `key`.  Raises `GatewayError`."""

    def abort(self, key: int) -> None:
        """Drop a call in whatever state; unknown ones are ignored."""

    def step(self) -> Batch:
        """Do a bounded piece of work and return what came of it."""

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
