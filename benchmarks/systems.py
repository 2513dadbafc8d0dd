"""The seam between what is measured and what measures: a system answers on a URL, in front of an upstream."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

Dialect = Literal["openai", "ollama"]


@dataclass(frozen=True)
class Upstream:
    """What a gateway stands in front of.

    Args:
        url: base URL, without `/v1`.
        dialect: the API that is spoken there.
        model: the name that requests carry.
    """

    url: str
    dialect: Dialect
    model: str


@dataclass(frozen=True)
class Running:
    """A system that answers.

    Args:
        name: the system's, as in `benchmarks.peers.SYSTEMS`.
        url: base URL, without `/v1`.
        headers: what every request must carry, less content type and length.
        model: the name that requests must carry; it reaches the upstream as the upstream's own.
        pids: every process that serves; empty where nothing stands between client and upstream.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    model: str
    pids: tuple[int, ...]


class System(Protocol):
    """One gateway, or none, that can be put between a client and an upstream."""

    @property
    def name(self) -> str:
        """Its name in tables and plots."""
        ...

    def version(self) -> str:
        """Return what the installed program calls its version."""
        ...

    def supports(self, scenario: str) -> bool:
        """Return whether it can do what a scenario (its module's name) asks."""
        ...

    def running(self, upstream: Upstream) -> AbstractContextManager[Running]:
        """Serve in front of `upstream` while the block lasts, from the moment it answers.

        Raises:
            RuntimeError: it did not start; the message ends with the last of what it said.
        """
        ...
