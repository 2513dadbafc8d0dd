"""Several worker processes: real ones, real signals."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

APP = """
import errno, os, resource, signal, sys
from illm.server import Limits, run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + (".failed" if "start" in sys.argv[2] else ".complete"), "message": "because"})
            if kind == "lifespan.shutdown":
                return
    if scope["path"] == "/crash":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-pid", b"%d" % os.getpid())]})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})

def listening(addresses):
    print(addresses[0][1], flush=True)

class App:
    async def __call__(self, scope, receive, send):
        await app(scope, receive, send)
    def begin_drain(self):
        os.write(1, b"drain\\n")  # in one piece: the other says the same

fork, forks = os.fork, []

def sparing():
    forks.append(1)
    if len(forks) == 3:
        raise BlockingIOError(errno.EAGAIN, "no more processes")
    return fork()

if sys.argv[2] == "fork":
    os.fork = sparing
if sys.argv[2] == "descriptors":
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    taken = [os.dup(0) for _ in range(1024)]
limits = Limits(drain=20)
sys.exit(run(App(), port=int(sys.argv[3]), loop=sys.argv[1], workers=2, on_listening=listening, limits=limits))
"""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.parametrize("loop", ["asyncio", "trio"]),
]


@contextmanager
def process(loop: str, fails: str = "-", port: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run the parent in a process group of its own; nothing of it is left when the block is."""
    with subprocess.Popen(
        [sys.executable, "-c", APP, loop, fails, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def serving(loop: str, fails: str = "-") -> Iterator[tuple[subprocess.Popen[str], int]]:
    with process(loop, fails) as child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())


class Client:
    """One connection; every byte sent as a body comes back."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def ask(self, path: str = "/") -> int:
        """Return the process that answers."""
        self.socket.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        return self.answering(b"\r\n\r\n")

    def begin(self) -> int:
        """Begin a request whose answer lasts until its last byte is sent."""
        self.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0")
        return self.answering(b"1\r\n0\r\n")

    def answering(self, marker: bytes) -> int:
        head = self.until(marker)
        return int(head.partition(b"x-pid: ")[2].partition(b"\r")[0])

    def until(self, marker: bytes) -> bytes:
        data = b""
        while marker not in data:
            piece = self.socket.recv(4096)
            if not piece:
                raise ConnectionError(data)
            data += piece
        return data

    def close(self) -> None:
        self.socket.close()


def ask(port: int) -> int:
    with closing(Client(port)) as client:
        return client.ask()


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the parent; return its status and what all of them wrote: pipes end when the last one does."""
    _, errors = child.communicate(timeout=30)
    return child.returncode, errors


def both(port: int) -> set[int]:
    """Ask until two processes have answered."""
    found: set[int] = set()
    while len(found) < 2:
        found.add(ask(port))
    return found


def test_two_processes_serve_one_address(loop):
    with serving(loop) as (child, port):
        workers = both(port)
        assert child.pid not in workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_streams_finish(loop, number):
    with serving(loop) as (child, port):
        clients, found = [], set()
        while len(found) < 2:
            clients.append(Client(port))
            found.add(clients[-1].begin())
        if number == signal.SIGINT:  # as a terminal does: to all of them at once
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        for client in clients:
            client.socket.sendall(b"123456789")
            client.until(b"\r\n0\r\n\r\n")
            assert client.socket.recv(1) == b""
            client.close()
        status, _ = ended(child)
        assert status == 0
        with pytest.raises(OSError):
            ask(port)


def test_the_second_signal_ends_at_once(loop):
    with serving(loop) as (child, port), closing(Client(port)) as client:
        client.begin()
        child.send_signal(signal.SIGTERM)
        assert [child.stdout.readline() for _ in range(2)] == ["drain\n"] * 2
        child.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            client.until(b"\r\n0\r\n\r\n")
        status, _ = ended(child)
        assert status == 128 + signal.SIGTERM


def test_a_worker_that_crashes_is_replaced(loop):
    with serving(loop) as (child, port):
        before = both(port)
        with closing(Client(port)) as client:
            crashed = client.ask()
            os.kill(crashed, signal.SIGKILL)
            with pytest.raises(ConnectionError):
                client.until(b"anything")
        after: set[int] = set()
        while len(after) < 2 or crashed in after:
            after = both(port)
        assert len(after & before) == 1
        child.send_signal(signal.SIGTERM)
        status, errors = ended(child)
        assert status == 0
        assert "ended with signal 9; another is started in 0 s" in errors


def test_a_worker_that_cannot_be_started_is_tried_again(loop):
    with serving(loop, "fork") as (child, port):
        before = both(port)
        with closing(Client(port)) as client, suppress(ConnectionError):
            client.ask("/crash")
        while len(both(port) - before) < 1:
            pass
        child.send_signal(signal.SIGTERM)
        status, errors = ended(child)
        assert status == 0
        assert "ended with no more processes" in errors


def test_a_parent_with_many_descriptors(loop):
    with serving(loop, "descriptors") as (child, port):
        both(port)
        child.send_signal(signal.SIGTERM)
        assert ended(child)[0] == 0


def test_clients_that_wait_for_a_crashed_worker_are_served_by_the_next(loop):
    with serving(loop) as (_, port):
        for _ in range(2):
            with closing(Client(port)) as client, suppress(ConnectionError):
                client.ask("/crash")
            clients = [Client(port) for _ in range(20)]
            for client in clients:
                client.ask()
                client.close()


def test_workers_that_crash_again_and_again_end_the_service(loop):
    with serving(loop) as (child, port):
        while child.poll() is None:
            with suppress(OSError), closing(Client(port)) as client:
                client.ask("/crash")
        status, errors = ended(child)
        assert status == 4
        assert "as 4 before it" in errors


def test_workers_outlive_their_parent_only_until_they_have_finished(loop):
    with serving(loop) as (child, port), closing(Client(port)) as client:
        client.begin()
        child.kill()
        client.socket.sendall(b"123456789")
        client.until(b"\r\n0\r\n\r\n")
        _, errors = ended(child)
        assert errors.count("the parent process is gone") == 2


def test_an_application_that_cannot_start_is_not_tried_again(loop):
    with process(loop, "start") as child:
        status, errors = ended(child)
        assert status == 3
        assert "because" in errors
        assert "another is started" not in errors


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_is_taken(loop, shared):
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as taken:
        with process(loop, port=taken.getsockname()[1]) as child:
            status, errors = ended(child)
        assert status == 1
        assert errors.startswith("cannot listen on 127.0.0.1:")
        assert "Traceback" not in errors
