"""Upstreams as witnesses: what they say they served must agree with what the client says it got."""

from typing import Protocol

from benchmarks.footprint import family
from benchmarks.load.plan import Outcome
from benchmarks.standins.nginx import NginxProcess
from benchmarks.standins.pace import Pace
from benchmarks.standins.process import PacedProcess

LARGEST_LAG_MS = 250.0
"""A stand-in that is later than this was not the upstream it should have been."""


class Witness(Protocol):
    """What an upstream says it did, and which processes it is."""

    @property
    def pids(self) -> tuple[int, ...]:
        """All of it."""

    def reset(self, pace: Pace | None) -> None:
        """Get ready for a case with that pace, and count from zero."""

    def faults(self, outcome: Outcome) -> dict[str, int]:
        """Return how far its counts are from the client's, by name; empty where they agree."""

    def metrics(self) -> dict[str, float]:
        """Return what the upstream itself cost."""


class Paced:
    """The paced stand-in as a witness."""

    def __init__(self, process: PacedProcess) -> None:
        self._process = process
        self._counts: dict[str, float] = {}

    @property
    def pids(self) -> tuple[int, ...]:
        """See `Witness`."""
        return family(self._process.pid)

    def reset(self, pace: Pace | None) -> None:
        """See `Witness`."""
        self._process.configure(pace or Pace())

    def faults(self, outcome: Outcome) -> dict[str, int]:
        """See `Witness`."""
        counts = self._counts = self._process.counts()
        return differences(counts, outcome)

    def metrics(self) -> dict[str, float]:
        """See `Witness`."""
        cost = 100 * self._counts["cpu_s"] / self._counts["wall_s"]
        return {"standin_cpu_percent": cost, "standin_lag_max_ms": self._counts["worst_lag_ms"]}


class Fixed:
    """nginx with its fixed answer as a witness."""

    def __init__(self, process: NginxProcess) -> None:
        self._process = process

    @property
    def pids(self) -> tuple[int, ...]:
        """See `Witness`."""
        return family(self._process.pid)

    def reset(self, pace: Pace | None) -> None:
        """See `Witness`."""
        self._process.reset()

    def faults(self, outcome: Outcome) -> dict[str, int]:
        """See `Witness`."""
        served = self._process.served(outcome.answered)
        return {"upstream counted otherwise": served - outcome.answered} if served != outcome.answered else {}

    def metrics(self) -> dict[str, float]:
        """See `Witness`."""
        return {}


def differences(counts: dict[str, float], outcome: Outcome) -> dict[str, int]:
    """Return where the paced stand-in's counts and the client's part, by name.

    Args:
        counts: see `benchmarks.standins.pace.Counts`.
        outcome: the client's.
    """
    found = {
        "upstream answered otherwise": counts["answered"] - outcome.answered,
        "upstream sent more tokens": counts["tokens"] - outcome.tokens if outcome.tokens else 0,
        "asked again": counts["requests"] - counts["answered"] - counts["broken"],
        "broken off": counts["broken"],
        "request changed": counts["untagged"],
        "stand-in late": counts["worst_lag_ms"] > LARGEST_LAG_MS,
    }
    return {name: int(number) for name, number in found.items() if number}
