"""Real processes: start one, wait until it answers, end it with everything it started."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from benchmarks.footprint import family, group

HOST = "127.0.0.1"
PATIENCE = 120.0
"""Seconds a system may take to start."""
GRACE = 15.0
"""Seconds it may take to stop when asked."""
_SAID = 6000
"""Bytes of its last words that an error shows."""
_PAUSE = 0.004
"""Seconds between two looks at a system that starts: it cannot tell us, so it has to be asked."""
_OURS = ("ILLM_", "PYTHON", "LITELLM_", "OMP_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1

Accept = Callable[[int, bytes], bool]
"""(status, body) → whether this answer means that requests are taken."""


def well(status: int, body: bytes) -> bool:
    """Accept any 2xx."""
    return 200 <= status < 300


@dataclass(frozen=True)
class Server:
    """A process that was started here.

    Args:
        name: what errors call it.
        process: the leader of a process group of its own.
        log: what it says, both streams.
        born: `time.perf_counter()` just before it was started.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    born: float

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of it that lives now, the leader first."""
        return family(self.process.pid)

    def said(self) -> str:
        """Return the last of what it wrote."""
        end = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, end - _SAID))
        return self.log.read().decode(errors="replace")


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on, yet."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


def surroundings(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment for a system under test.

    It is ours, less what would make systems differ from machine to machine (our own options, interpreter paths,
    thread counts) and less the proxies, since everything here is on the loopback interface.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_OURS) and name.lower() not in _PROXIES
    }
    return kept | {"NO_COLOR": "1"} | dict(variables or {})


@contextmanager
def started(
    name: str, command: Sequence[str | Path], *, variables: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Server]:
    """Run a command while the block lasts; it and all its children are gone afterwards.

    Args:
        name: what errors call it.
        command: program and arguments.
        variables: what its environment has beside `surroundings()`.
        cwd: where it runs.

    Yields:
        It, which may not answer yet.
    """
    with tempfile.TemporaryFile() as log:
        born = time.perf_counter()
        # A group of its own: some systems are several processes, and all of them have to go.
        process = subprocess.Popen(
            [str(word) for word in command],
            env=surroundings(variables),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_leave_with_us,
        )
        try:
            yield Server(name, process, log, born)
        finally:
            _stop(process)


@contextmanager
def serving(
    name: str,
    command: Sequence[str | Path],
    url: str,
    *,
    accept: Accept = well,
    variables: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    patience: float = PATIENCE,
) -> Iterator[Server]:
    """Run a server while the block lasts, from the moment it answers.

    Args:
        name: see `started`.
        command: see `started`.
        url: what is asked until the answer is accepted.
        accept: see `Accept`.
        variables: see `started`.
        cwd: see `started`.
        patience: seconds until it is given up.

    Raises:
        RuntimeError: it did not start; the message ends with the last of what it said.
    """
    with started(name, command, variables=variables, cwd=cwd) as server:
        await_answer(server, url, accept=accept, patience=patience)
        yield server


def await_answer(server: Server, url: str, *, accept: Accept = well, patience: float = PATIENCE) -> float:
    """Ask until an answer is accepted; return the seconds from the process's start to that answer.

    Raises:
        RuntimeError: it ended, or `patience` seconds passed; the message ends with the last of what it said.
    """
    end = time.monotonic() + patience
    last = "no answer"
    while time.monotonic() < end:
        # Raises as soon as the process ends, and is the pause between two questions.
        with suppress(subprocess.TimeoutExpired):
            status = server.process.wait(_PAUSE)
            raise RuntimeError(f"{server.name} ended with status {status}; it said:\n{server.said()}")
        try:
            status, body = fetch(url)
        except (OSError, http.client.HTTPException):
            continue
        if accept(status, body):
            return time.perf_counter() - server.born
        last = f"{status} {body[:200]!r}"
    raise RuntimeError(f"{server.name} did not start in {patience:.0f} s ({last}); it said:\n{server.said()}")


def fetch(
    url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout: float = 30
) -> tuple[int, bytes]:
    """Make one request on a connection of its own: POST of JSON where there is a body, else GET.

    Returns:
        The status and the whole body.

    Raises:
        OSError: nobody listens, or nothing came in `timeout` seconds.
        http.client.HTTPException: what came is no HTTP.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=timeout)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        if body is None:
            connection.request("GET", path, headers=dict(headers or {}))
        else:
            connection.request("POST", path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _leave_with_us() -> None:
    """Have the kernel end this process if the suite is killed before it can: nothing may stay behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):  # the leader may be gone and its workers not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A signal is not yet an end: whoever comes next wants the port and the processor for itself.
    end = time.monotonic() + GRACE
    while group(process.pid) and time.monotonic() < end:
        time.sleep(_PAUSE)
