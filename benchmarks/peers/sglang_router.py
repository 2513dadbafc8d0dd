"""sglang-router (Rust), in its mode for OpenAI-style servers; its successor `smg` takes the same command line."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.program import Command, Program, distribution_version
from benchmarks.processes import HOST, free_port
from benchmarks.systems import Upstream

ENVIRONMENT = Environment("sglang-router", (REQUIREMENTS / "sglang-router.txt",))
# What neither router does in this mode: to embeddings it answers 501.
LACKS = frozenset({"embeddings", "translation"})


def router_command(environment: Environment, name: str) -> Command:
    """Return how a router of this family is started."""

    def command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
        listen = ("--host", HOST, "--port", str(port))
        # Its metrics listen on every interface, and on one port for all, unless told otherwise.
        metrics = ("--prometheus-host", HOST, "--prometheus-port", str(free_port()))
        # `error` is the quietest there is.
        options = ("--backend", "openai", "--log-level", "error")
        return [environment.program(name), "launch", *listen, *metrics, *options, "--worker-urls", upstream.url]

    return command


SYSTEM = Program(
    name="sglang-router",
    environment=ENVIRONMENT,
    command=router_command(ENVIRONMENT, "sglang-router"),
    about=distribution_version(ENVIRONMENT, "sglang-router"),
    health="/readiness",
    lacks=LACKS,
)
