"""No gateway: what the upstream and the load generator take by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.peers.program import NEEDS_A_MODEL
from benchmarks.systems import Running, Upstream

_NEEDS_A_SYSTEM = frozenset({"cold_start", "memory", *NEEDS_A_MODEL})


@dataclass(frozen=True)
class Direct:
    """See `System`."""

    name: str = "direct"

    def version(self) -> str:
        """See `System`."""
        return "no gateway"

    def supports(self, scenario: str) -> bool:
        """See `System`."""
        return scenario not in _NEEDS_A_SYSTEM

    @contextmanager
    def running(self, upstream: Upstream) -> Iterator[Running]:
        """See `System`."""
        yield Running(self.name, upstream.url, {}, upstream.model, ())


SYSTEM = Direct()
