"""An upstream server that does exactly what a test says, over real sockets, on both loops.

A script is played for every request: bytes are sent as they are, an `anyio.Event` is waited for (as long as the client
stays), a function is called and awaited, `RESET`, `CLOSE` and `STALL` do what they are called.  `pieces` cuts bytes up.
What happened is counted, and `until` waits for it, so that no test sleeps:

    async with fake_server([head(), b"hel", event, b"lo", CLOSE]) as server:
        ... server.url ...
        await server.until(lambda: server.left == 1)
"""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener


class Act(Enum):
    """What a script may do besides sending and waiting."""

    RESET = "end the connection with a TCP reset"
    CLOSE = "close the connection"
    STALL = "say nothing more until the client goes"


RESET, CLOSE, STALL = Act
Step = bytes | anyio.Event | Act | Callable[[], Awaitable[None]]
Script = Sequence[Step]
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@dataclass
class Seen:
    """A request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


def head(status: int = 200, *, length: int | None = None, chunked: bool = False, **headers: str) -> bytes:
    """Return a response head; without `length` and `chunked` its body ends with the connection."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if length is not None:
        lines.append(f"content-length: {length}")
    if chunked:
        lines.append("transfer-encoding: chunked")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def response(body: bytes, status: int = 200, **headers: str) -> bytes:
    """Return a whole response."""
    return head(status, length=len(body), **headers) + body


def chunk(data: bytes) -> bytes:
    """Return one chunk; of nothing, the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces(data: bytes, size: int = 1) -> list[bytes]:
    """Cut bytes up, to be sent one write at a time."""
    return [data[at : at + size] for at in range(0, len(data), size)]


@dataclass
class FakeServer:
    """What a test sees of the server.

    Attributes:
        url: its address.
        choose: returns the script for a request; the default is the one given to `fake_server`.
        requests: all but the probes and lists of models, as they arrived.
        probes: how many GETs came.
        accepted, open, left: connections: ever, now, and ended by the client.
        sent: bytes the client's kernel has taken.
    """

    url: str
    choose: Callable[[Seen], Script]
    probe: Callable[[Seen], Script]
    requests: list[Seen] = field(default_factory=list)
    probes: int = 0
    accepted: int = 0
    open: int = 0
    left: int = 0
    sent: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    stopped: anyio.Event = field(default_factory=anyio.Event)
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def connections(self) -> int:
        """How many connections requests came on."""
        return len({seen.connection for seen in self.requests})

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        self.scope.cancel()
        await self.stopped.wait()

    def notify(self) -> None:
        """Something happened."""
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds."""
        while not condition():
            await self._changed.wait()

    async def serve(self, stream: ByteStream) -> None:
        """Serve one connection."""
        self.accepted += 1
        self.open += 1
        peer = _Peer(stream, self.accepted)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.read)
                await self._play_all(peer)
                tasks.cancel_scope.cancel()
        finally:
            self.open -= 1
            self.left += peer.ended
            self.notify()
            await anyio.aclose_forcefully(stream)

    async def _play_all(self, peer: "_Peer") -> None:
        while (seen := await peer.request()) is not None:
            if seen.method == "GET":
                self.probes += 1
                script = self.probe(seen)
            else:
                self.requests.append(seen)
                script = self.choose(seen)
            self.notify()
            for step in script:
                if not await self._play(peer, step):
                    return

    async def _play(self, peer: "_Peer", step: Step) -> bool:
        if isinstance(step, bytes):
            try:
                for piece in pieces(step, 65536):
                    await peer.stream.send(piece)
                    self.sent += len(piece)
                    self.notify()
            except _GONE:
                peer.ended = True
                return False
            return True
        if isinstance(step, anyio.Event):
            return await peer.wait(step)
        if not isinstance(step, Act):
            await step()
            return True
        if step is STALL:
            await peer.wait(anyio.Event())
        elif step is RESET:
            raw = peer.stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


class _Peer:
    """One connection: a reader, so that the client's going is seen whatever the script waits for."""

    def __init__(self, stream: ByteStream, number: int) -> None:
        self.stream = stream
        self.number = number
        self.ended = False
        self._buffer = b""
        self._more = anyio.Event()

    async def read(self) -> None:
        try:
            while True:
                data = await self.stream.receive()
                self._buffer += data
                self._wake()
        except _GONE:
            self.ended = True
            self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = anyio.Event()

    async def wait(self, event: anyio.Event) -> bool:
        """Wait for an event, or for the client to go; return whether it stayed."""

        async def leave_when(other: anyio.Event, tasks: anyio.abc.TaskGroup) -> None:
            await other.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave_when, event, tasks)
            while not self.ended:
                await self._more.wait()
            tasks.cancel_scope.cancel()
        return not self.ended

    async def request(self) -> Seen | None:
        """Return the next request, or None once the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if self.ended:
                return None
            await self._more.wait()
        block, _, rest = self._buffer.partition(b"\r\n\r\n")
        line, *fields = block.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in fields)}
        length = int(headers.get("content-length", "0"))
        self._buffer = rest
        while len(self._buffer) < length:
            if self.ended:
                return None
            await self._more.wait()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Seen(method, target, headers, body, self.number)


WELL = (response(b"m1\nm2"),)
"""What a probe is answered."""


@asynccontextmanager
async def fake_server(
    script: Script | Callable[[Seen], Script] = (),
    *,
    probe: Script | Callable[[Seen], Script] = WELL,
    tls: ssl.SSLContext | None = None,
    path: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[FakeServer]:
    """Run a server while the block lasts.

    Args:
        script: what every request but a GET is answered with, or what chooses that by the request.
        probe: the same for GETs.
        tls: to speak TLS with.
        path: of a unix socket to listen on.
        host, port: to listen on, without `path`.
    """
    if path is not None:
        listener = await anyio.create_unix_listener(path)
        url = f"unix://{path}"
    else:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=2048)
        port = listener.extra(SocketAttribute.local_port)
        shown = f"[{host}]" if ":" in host else host
        url = f"http{'s' if tls else ''}://{shown}:{port}"
    server = FakeServer(
        url, script if callable(script) else lambda _: script, probe if callable(probe) else lambda _: probe
    )
    serving = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)

    async def listen() -> None:
        with server.scope:
            async with serving:
                await serving.serve(server.serve)
        server.stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        yield server
        tasks.cancel_scope.cancel()
