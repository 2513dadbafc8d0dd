"""Servers as processes: how each is started, and what a test wants of one that runs."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

TESTS = Path(__file__).resolve().parents[1]
PYTHON = (sys.executable, "-W", "default", "-m")
OURS = """
import sys
from illm.server import Limits, run
from interop import served

_, factory, port, loop = sys.argv
sys.exit(run(getattr(served, factory)(), port=int(port), loop=loop, limits=Limits(write_timeout=served.PATIENCE)))
"""


class Kind(NamedTuple):
    """One way to run one server: `{port}` and `{factory}` are filled in."""

    package: str
    command: tuple[str, ...]


KINDS = {
    "ours-asyncio": Kind("illm", (sys.executable, "-c", OURS, "{factory}", "{port}", "asyncio")),
    "ours-trio": Kind("illm", (sys.executable, "-c", OURS, "{factory}", "{port}", "trio")),
    "uvicorn-h11": Kind(
        "uvicorn", (*PYTHON, "uvicorn", "--factory", "interop.served:{factory}", "--port", "{port}", "--http", "h11")
    ),
    "uvicorn-httptools": Kind(
        "uvicorn",
        (*PYTHON, "uvicorn", "--factory", "interop.served:{factory}", "--port", "{port}", "--http", "httptools"),
    ),
    "hypercorn-asyncio": Kind(
        "hypercorn", (*PYTHON, "hypercorn", "-k", "asyncio", "-b", "127.0.0.1:{port}", "interop.served:{factory}()")
    ),
    "hypercorn-trio": Kind(
        "hypercorn", (*PYTHON, "hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}", "interop.served:{factory}()")
    ),
    "granian": Kind(
        "granian",
        (*PYTHON, "granian", "--interface", "asgi", "--factory", "--port", "{port}", "interop.served:{factory}"),
    ),
}


class Running:
    """A server that runs, and a client of it.

    Args:
        kind: which server.
        port: where.
        prefix: the mount point that requests go to.
    """

    def __init__(self, kind: str, port: int, prefix: str) -> None:
        self.kind = kind
        self.address = ("127.0.0.1", port)
        self.log: list[str] = []
        self.status: int | None = None
        """What the process ended with, once it has."""
        transport = httpx.HTTPTransport(retries=10)  # while it starts
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}{prefix}", transport=transport, timeout=30)
        self._cases = itertools.count()

    def case(self) -> str:
        """Return a name that no other test of this server uses."""
        return f"case-{next(self._cases)}"

    def ask(self, prompt: str, **more) -> httpx.Response:
        """Chat, and wait for the whole answer."""
        return self.client.post("/v1/chat/completions", **request(prompt, **more))

    def stream(self, prompt: str, **more):
        """Chat; a context manager of a response that is being read."""
        return self.client.stream("POST", "/v1/chat/completions", **request(prompt, stream=True, **more))

    @contextmanager
    def asking(self, prompt: str, **more) -> Iterator[socket.socket]:
        """Chat over a socket of one's own; the end of the block is the client's leaving."""
        sent = self.client.build_request("POST", "/v1/chat/completions", **request(prompt, **more))
        head = f"POST {sent.url.raw_path.decode()} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        with socket.create_connection(self.address, timeout=30) as connection:
            connection.sendall(f"{head}content-length: {len(sent.content)}\r\n\r\n".encode() + sent.content)
            yield connection

    def models(self) -> dict[str, dict]:
        """What health says of each model."""
        (provider, *_) = self.client.get("/healthz").json()["providers"]
        return {model["id"]: model for model in provider["models"]}

    def until_loaded(self) -> None:
        while self.client.get("/healthz").json()["status"] == "loading":
            pass


def request(prompt: str, **more) -> dict:
    headers = more.pop("headers", {})
    return {"json": {"messages": [{"role": "user", "content": prompt}], **more}, "headers": headers}


@contextmanager
def running(kind: str, factory: str = "create_app", prefix: str = "") -> Iterator[Running]:
    """Run a server while the block lasts; it must end cleanly when told to."""
    package, command = KINDS[kind]
    pytest.importorskip(package, reason=f"{package} is in the extra `interop`")
    port = free_port()
    process = subprocess.Popen(
        [part.format(port=port, factory=factory) for part in command],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Running(kind, port, prefix)
    reader = threading.Thread(target=lambda: server.log.extend(process.stdout), daemon=True)
    reader.start()
    try:
        with server.client:
            yield server
        process.send_signal(signal.SIGTERM)
        server.status = process.wait(20)
    except BaseException:
        process.kill()
        process.wait()
        reader.join()
        sys.stderr.write("".join(server.log))
        raise
    finally:
        reader.join()
        process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
