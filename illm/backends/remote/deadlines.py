"""How long each phase of an exchange may take, and what it is called when it took longer.

No timer is armed for a request: a worker notes which phase it is in and that bytes moved, two attribute writes, and one
watch a backend compares all of them with the clock a few times within the shortest deadline.  So a deadline passes
up to a tick late, never early.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from illm.errors import GatewayError, Kind


class Phase(Enum):
    """What a worker waits for."""

    REST = "its next request"
    CONNECT = "a connection"
    FIRST_BYTE = "the first byte of the answer"
    BYTES = "more bytes"
    CLIENT = "the client to take what it has"
    WHOLE = "the whole exchange"


LATE: Mapping[Phase, tuple[Kind, str]] = {
    Phase.CONNECT: (Kind.UNREACHABLE, "The backend {!r} cannot be reached: no connection in time"),
    Phase.FIRST_BYTE: (Kind.TIMEOUT, "The backend {!r} did not begin to answer in time"),
    Phase.BYTES: (Kind.TIMEOUT, "The backend {!r} fell silent in the middle of its answer"),
    Phase.WHOLE: (Kind.TIMEOUT, "The backend {!r} did not finish its answer in time"),
}


_FIELDS = {
    Phase.REST: "rest",
    Phase.CONNECT: "connect",
    Phase.FIRST_BYTE: "first_byte",
    Phase.BYTES: "idle",
    Phase.WHOLE: "total",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: for connecting (TLS included), until the first byte, between bytes, for a whole exchange.

    `rest` is how long an idle connection is kept: less than the 5 s after which vLLM and SGLang close theirs.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    total: float = 3600.0
    rest: float = 4.0

    def of(self, phase: Phase) -> float:
        """Return the limit of one phase; a slow client is its server's affair."""
        field = _FIELDS.get(phase)
        return math.inf if field is None else float(getattr(self, field))

    @property
    def tick(self) -> float:
        """How often to look, in seconds."""
        shortest = min(self.connect, self.first_byte, self.idle, self.total, self.rest)
        return min(max(shortest / 20, 0.001), 0.2)


class Deadline:
    """One worker's.  Written by it, read by the watch.

    Attributes:
        since: when the exchange was first looked at, on the loop's clock; None before.
    """

    __slots__ = ("_moved", "_phase", "_until", "since")

    def __init__(self) -> None:
        self._phase = Phase.REST
        self._moved = True
        self._until = math.inf
        self.since: float | None = None

    def begin(self, phase: Phase, since: float | None = None) -> None:
        """A new exchange begins; `Phase.REST` says that none runs.

        Args:
            phase: the first.
            since: when the request was first looked at, where it has waited before or was tried elsewhere.
        """
        self._phase = phase
        self._moved = True
        self.since = since

    def enter(self, phase: Phase) -> None:
        """The exchange is in this phase, and something moved just now."""
        self._phase = phase
        self._moved = True

    def passed(self, now: float, timeouts: Timeouts) -> Phase | None:
        """Return which limit has passed, if any.  `now` is on the loop's clock."""
        phase = self._phase
        if self._moved:
            self._moved = False
            self._until = now + timeouts.of(phase)
        elif now >= self._until:
            return phase
        if phase is Phase.REST:
            return None
        if self.since is None:
            self.since = now
        elif now >= self.since + timeouts.total:
            return Phase.WHOLE
        elif phase in _UNANSWERED and now >= self.since + timeouts.connect + timeouts.first_byte:
            return Phase.FIRST_BYTE  # wherever the time went: on a replica that failed, or in the mailbox
        return None


_UNANSWERED = (Phase.CONNECT, Phase.FIRST_BYTE)


def late(phase: Phase, framework: str) -> GatewayError:
    """Return what the client is told."""
    kind, message = LATE[phase]
    return GatewayError(kind, message.format(framework))
