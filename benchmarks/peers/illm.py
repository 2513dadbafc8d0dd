"""ILLM itself, from this checkout, on its own server: as it is meant to run, and the slower ways beside."""

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.program import Command, Program
from benchmarks.processes import HOST
from benchmarks.systems import Upstream

# Another checkout can be measured with this one's suite, two commits with the same yardstick.
CHECKOUT = Path(os.environ.get("ILLM_BENCHMARK_CHECKOUT") or Path(__file__).parents[2])
# Only what ILLM needs is installed, and the checkout comes by path: an edit needs no installation.
PLAIN = Environment("illm", (REQUIREMENTS / "illm.txt",))
FAST = Environment("illm-fast", (REQUIREMENTS / "illm.txt", REQUIREMENTS / "illm-fast.txt"))
VARIABLES = {"PYTHONPATH": str(CHECKOUT)}
_FRAMEWORKS = {"openai": "vllm", "ollama": "ollama"}
"""Dialect → the backend of ours that speaks it."""


@cache
def options() -> str:
    """Return what `illm serve --help` says."""
    PLAIN.install()
    said = subprocess.run(
        [PLAIN.python, "-m", "illm.server", "--help"], env=VARIABLES, capture_output=True, text=True, check=True
    )
    return said.stdout


def command(environment: Environment, *wanted: tuple[str, str]) -> Command:
    """Return how ILLM is started.

    Args:
        environment: where its dependencies are.
        wanted: (option, value); an option that this checkout does not know is left out.
    """

    def line(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
        framework = _FRAMEWORKS[upstream.dialect]
        extra = [word for option, value in wanted if option in options() for word in (option, value)]
        listen = ("--host", HOST, "--port", str(port), "--log-level", "error")
        behind = (f"--{framework}-base-url", upstream.url)
        return [environment.python, "-m", "illm.server", framework, *behind, *listen, *extra]

    return line


def about(environment: Environment, *also: str) -> str:
    """Return ILLM's version and commit, and the versions of what counts beneath it."""
    environment.install()
    said = subprocess.run(
        [environment.python, "-c", "import illm; print(illm.__version__)"],
        env=VARIABLES,
        capture_output=True,
        text=True,
        check=True,
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    versions = environment.versions(*also) if also else {}
    beneath = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"illm {said.stdout.strip()} ({commit.stdout.strip() or 'no checkout'}){f' on {beneath}' if beneath else ''}"


def _system(name: str, environment: Environment, *wanted: tuple[str, str], beneath: Sequence[str] = ()) -> Program:
    return Program(
        name=name,
        environment=environment,
        command=command(environment, *wanted),
        about=lambda: about(environment, *beneath),
        health="/healthz",
        variables=VARIABLES,
    )


FASTEST = _system("illm", FAST, ("--http", "auto"), beneath=("uvloop", "httptools"))
H11 = _system("illm-h11", PLAIN, ("--http", "h11"), beneath=("h11",))
TRIO = _system("illm-trio", PLAIN, ("--http", "h11"), ("--loop", "trio"), beneath=("trio", "h11"))
TWO_WORKERS = Program(
    name="illm-2-workers",
    environment=FAST,
    command=command(FAST, ("--http", "auto"), ("--workers", "2")),
    about=FASTEST.about,
    health="/healthz",
    variables=VARIABLES,
    able=lambda: "--workers" in options(),
)
