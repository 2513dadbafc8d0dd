"""Start a server, wait until it is well, run what needs it, stop it."""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

HOST = "127.0.0.1"
PATIENCE = 1800.0
"""Seconds a server may take to start: a large one imports for minutes where the disk is cold or the cores are busy."""
GRACE = 20.0
"""Seconds a server may take to stop when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one run of a server shall be.

    Args:
        python: interpreter of the server's environment.
        port: to listen on.
        key: the bearer key that requests have to carry.
        embeddings: whether it shall embed texts, instead of writing them.
    """

    python: str
    port: int
    key: str
    embeddings: bool

    @property
    def url(self) -> str:
        """Where it will be."""
        return f"http://{HOST}:{self.port}"

    def beside(self, program: str) -> str:
        """Return the path of a program in the server's environment."""
        return str(Path(self.python).with_name(program))


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one server is started.

    Args:
        name: what the tests are told it is.
        framework: the backend of ours that speaks to it.
        command: a wish → the server's command line.
        environment: what it needs beyond ours.
        health: a path that answers 200, to anybody, once requests are taken.
    """

    name: str
    framework: str
    command: Callable[[Wish], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"

    def told(self, wish: Wish) -> dict[str, str]:
        """Return what the tests read from their environment."""
        ours = f"ILLM_{self.framework.upper()}"
        return {
            f"{ours}_BASE_URL": wish.url,
            f"{ours}_API_KEY": wish.key,
            "REAL_SERVER": self.name,
            "REAL_FRAMEWORK": self.framework,
            "REAL_KIND": "embeddings" if wish.embeddings else "text",
        }


def free_port() -> int:
    """Return a port that nobody listens on, yet."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(launch: Launch, wish: Wish) -> Iterator[None]:
    """Run a server while the block lasts.

    Raises:
        RuntimeError: it did not start; the message ends with the last of what it said.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **launch.environment}
    # So that what the server starts by name (a compiler, a worker) is found beside its interpreter.
    environment["PATH"] = f"{Path(wish.python).parent}{os.pathsep}{environment.get('PATH', '')}"
    with tempfile.TemporaryFile() as log:
        # A group of its own: some servers are several processes, and all of them have to go.
        process = subprocess.Popen(
            launch.command(wish),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_health(process, f"{wish.url}{launch.health}")
            yield
        except TimeoutError as error:
            log.seek(0)
            said = log.read().decode(errors="replace")[-6000:]
            raise RuntimeError(f"{launch.name} {error}; it said:\n{said}") from None
        finally:
            _stop(process)


def _await_health(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise TimeoutError(f"ended with status {process.returncode}")
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=30, trust_env=False).status_code == 200:
                return
        time.sleep(0.3)
    raise TimeoutError(f"was not well after {PATIENCE:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):  # the leader may be gone and its workers not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(launch: Launch) -> int:
    """Do what the command line says; return the status to exit with."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.real.{launch.name}")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the server's environment")
    parser.add_argument("--embeddings", action="store_true", help="serve an embedding model")
    parser.add_argument("command", nargs="*", help="what to run meanwhile (after --)")
    args = parser.parse_args()
    # A terminated launcher must still take its server with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wish = Wish(python=args.python, port=free_port(), key=secrets.token_hex(16), embeddings=args.embeddings)
    with running(launch, wish):
        told = launch.told(wish)
        sys.stderr.write("".join(f"{name}={value}\n" for name, value in told.items()))
        if args.command:
            return subprocess.run(args.command, env={**os.environ, **told}, check=False).returncode
        with suppress(KeyboardInterrupt):
            signal.pause()
    return 0
