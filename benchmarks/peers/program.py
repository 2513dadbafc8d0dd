"""A gateway that is a program of its own, behind the seam `benchmarks.systems.System`."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import Environment
from benchmarks.processes import HOST, PATIENCE, Accept, free_port, serving, well
from benchmarks.systems import Running, Upstream

Command = Callable[[Upstream, int, Path], Sequence[str | Path]]
"""(upstream, port to listen on, an empty directory for its files) → its command line."""

NEEDS_A_MODEL = frozenset({"local_engine", "local_engine_embeddings"})
"""Scenarios that no gateway can do."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """How one gateway is installed and started.

    Args:
        name: see `System`.
        environment: where it is installed; None where the operating system brings it.
        command: see `Command`.
        about: return its version.
        health: the path that is asked until it is accepted; it must not reach the upstream.
        accept: see `benchmarks.processes.Accept`.
        variables: what its environment has beside the usual.
        headers: see `Running`.
        lacks: scenarios that it cannot do.
        only: where not empty, the only ones that it is for; else it stands between a client and an upstream.
        model: what requests have to name, given the upstream.
        able: asked before anything else: whether it can be run at all.
        patience: seconds it may take to start.
    """

    name: str
    environment: Environment | None
    command: Command
    about: Callable[[], str]
    health: str
    accept: Accept = well
    variables: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    model: Callable[[Upstream], str] = lambda upstream: upstream.model
    able: Callable[[], bool] = lambda: True
    patience: float = PATIENCE

    def version(self) -> str:
        """See `System`."""
        return self.about()

    def supports(self, scenario: str) -> bool:
        """See `System`."""
        meant = scenario in self.only if self.only else scenario not in self.lacks | NEEDS_A_MODEL
        return meant and self.able()

    @contextmanager
    def running(self, upstream: Upstream) -> Iterator[Running]:
        """See `System`."""
        if self.environment is not None:
            self.environment.install()
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as home:
            port = free_port()
            url = f"http://{HOST}:{port}"
            command = self.command(upstream, port, Path(home))
            with serving(
                self.name,
                command,
                f"{url}{self.health}",
                accept=self.accept,
                variables=self.variables,
                cwd=Path(home),
                patience=self.patience,
            ) as server:
                yield Running(self.name, url, self.headers, self.model(upstream), server.pids)


def distribution_version(environment: Environment, distribution: str) -> Callable[[], str]:
    """Return a `Program.about` that names an installed distribution."""

    def about() -> str:
        environment.install()
        return f"{distribution} {environment.versions(distribution)[distribution]}"

    return about
