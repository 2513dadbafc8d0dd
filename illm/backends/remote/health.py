"""Whether one server is well: what probes say, and what the traffic shows.

Synchronous and without a clock of its own.  Down at once where nothing accepts connections or the server itself says
5xx; a probe without an answer counts only if no request got one either, as a busy server may be slow to say it is well.
"""

from collections.abc import Callable

import anyio

PERIOD = 5.0
"""Seconds between the probes of a server that is well; also the longest pause while it is not."""


class Health:
    """One server's.

    Args:
        changed: called, synchronously, when it went up or down, or was judged for the first time.

    Attributes:
        up: whether it takes requests.
        known: whether anybody has asked yet.
        problem: why it is down, or what last went wrong; words without an address.
        disturbed: set when the traffic found it down, so that probing does not sleep on.
    """

    __slots__ = ("_changed", "_failures", "_heard", "disturbed", "known", "problem", "up")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._failures = 0
        self._heard = False
        self.up = self.known = False
        self.problem: str | None = None
        self.disturbed = anyio.Event()

    @property
    def pause(self) -> float:
        """Seconds until the next probe."""
        return PERIOD if self.up else min(PERIOD, 2.0 ** max(0, self._failures - 1))

    def heard(self) -> None:
        """A request got bytes."""
        self._heard = True

    def refused(self, reason: str) -> None:
        """A request got no connection."""
        self.problem = reason
        if self.up:
            self._judge(up=False)
            self.disturbed.set()

    def probed(self, status: int | None, problem: str | None = None) -> None:
        """A probe came back.

        Args:
            status: of the answer; None where there was no answer in time.
            problem: why no connection came about.
        """
        heard, self._heard = self._heard, False
        if problem is None and status is not None and status < 500:
            # Not only 200: a server that lacks the path, or wants another key for it, is there all the same.
            self.problem = None
            self._judge(up=True)
            return
        self.problem = problem or (f"status {status} to a probe" if status else "no answer to a probe")
        if problem is None and status is None and heard and self.up:
            return
        self._judge(up=False)

    def _judge(self, *, up: bool) -> None:
        self._failures = 0 if up else self._failures + 1
        if up is not self.up or not self.known:
            self.up, self.known = up, True
            self._changed()
