"""The server as a process: signals and exit statuses."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

APP = """
import sys
from illm.server import Limits, run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            verdict = "failed" if kind.endswith(sys.argv[2]) else "complete"
            await send({"type": kind + "." + verdict, "message": "because"})
            print(kind, flush=True)
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"] or b"-", "more_body": more})

def listening(addresses):
    print(addresses[0][1], flush=True)

class App:
    async def __call__(self, scope, receive, send):
        await app(scope, receive, send)
    def begin_drain(self):
        print("drain", flush=True)

sys.exit(run(App(), port=int(sys.argv[3]), loop=sys.argv[1], on_listening=listening, limits=Limits(drain=20)))
"""

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@contextmanager
def process(loop: str, fails: str = "-", port: int = 0, code: str = APP) -> Iterator[subprocess.Popen[str]]:
    """Run the server; it is gone when the block is left."""
    arguments = [sys.executable, "-c", code, loop, fails, str(port)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def streaming(child: subprocess.Popen[str]) -> Iterator[socket.socket]:
    """A request that runs: every byte sent comes back, until the tenth."""
    assert child.stdout is not None
    assert child.stdout.readline() == "lifespan.startup\n"
    port = int(child.stdout.readline())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0")
        assert until(client, b"1\r\n0\r\n").startswith(b"HTTP/1.1 200")
        yield client


def until(client: socket.socket, marker: bytes) -> bytes:
    data = b""
    while marker not in data:
        piece = client.recv(4096)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_a_stream_finish(loop, number):
    with process(loop) as child, streaming(child) as client:
        child.send_signal(number)
        assert child.stdout.readline() == "drain\n"
        client.sendall(b"12345678")
        until(client, b"8\r\n")
        client.sendall(b"9")
        until(client, b"0\r\n\r\n")
        assert client.recv(1) == b""
        assert child.wait(10) == 0
        assert child.stdout.read() == "lifespan.shutdown\n"


def test_the_second_signal_ends_at_once(loop):
    with process(loop) as child, streaming(child) as client:
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "drain\n"
        child.send_signal(signal.SIGTERM)
        with pytest.raises((ConnectionError, AssertionError)):
            until(client, b"0\r\n\r\n")
        assert child.wait(10) == 128 + signal.SIGTERM


def test_an_application_that_cannot_start(loop):
    with process(loop, "startup") as child:
        _, errors = child.communicate(timeout=20)
        assert child.returncode == 3
        assert errors == "because\n"


def test_a_port_that_is_taken(loop):
    with socket.create_server(("127.0.0.1", 0)) as taken, process(loop, port=taken.getsockname()[1]) as child:
        _, errors = child.communicate(timeout=20)
        assert child.returncode == 1
        assert errors.startswith("cannot listen on 127.0.0.1:")
        assert "Traceback" not in errors


OUT_OF_DESCRIPTORS = """
import resource

def exhausted(addresses):
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    listening(addresses)
"""


def test_running_out_of_descriptors_does_not_end_the_server(loop):
    code = APP.replace("class App:", OUT_OF_DESCRIPTORS + "\nclass App:").replace("=listening,", "=exhausted,")
    with process(loop, code=code) as child:
        assert child.stdout.readline() == "lifespan.startup\n"
        address = ("127.0.0.1", int(child.stdout.readline()))
        # More than there are descriptors for: those who are not accepted are served or closed, sooner or later.
        for client in [socket.create_connection(address, timeout=10) for _ in range(60)]:
            client.close()
        answer = b""
        while not answer:
            # As long as it has not closed the others it may close this one too.
            with suppress(ConnectionError), socket.create_connection(address, timeout=10) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
