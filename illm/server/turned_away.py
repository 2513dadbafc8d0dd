"""A client that is one too many: told so, and closed."""

import math
from collections.abc import Callable

from illm.http11 import ResponseEncoder
from illm.loop.wire import Wire
from illm.server.faults import fault_body, fault_headers

PATIENCE = 1.0
"""Seconds in which it can read our answer before the connection is closed under it."""


class TurnedAway:
    """Owns the connection; needs no task.

    Args:
        retry_after: what it is told, in seconds.
        deadline: when it ends at the latest, in seconds on the loop's clock; None to end at once.
        gone: called last.
    """

    __slots__ = ("_deadline", "_gone", "_retry_after", "_wire")

    def __init__(self, retry_after: int, deadline: float | None, gone: "Callable[[TurnedAway], None]") -> None:
        self._retry_after = str(retry_after).encode()
        self._deadline = deadline
        self._gone = gone
        self._wire: Wire | None = None

    def opened(self, wire: Wire) -> None:
        """See `Owner`."""
        self._wire = wire
        reason = "too many connections"
        encoder = ResponseEncoder("GET", "1.1", keep_alive=False)
        encoder.start(503, [*fault_headers(503, reason), (b"retry-after", self._retry_after)])
        wire.write(encoder.body(fault_body(503, reason), more=False))
        if self._deadline is None:  # those who are turned away take descriptors too
            wire.close()
            self._deadline = -math.inf
        else:
            wire.end()

    def check(self, now: float) -> None:
        """End what is overdue."""
        if self._wire is not None and self._deadline is not None and now >= self._deadline:
            self._wire.abort()

    def received(self, data: bytes) -> None:
        """See `Receiver`.  Read and thrown away, so that no reset overtakes the answer."""

    def ended(self, broken: bool) -> None:
        """See `Receiver`."""
        if self._wire is not None:
            self._wire.close()

    def drained(self) -> None:
        """See `Receiver`."""

    def closed(self) -> None:
        """See `Receiver`."""
        self._wire = None
        self._gone(self)
