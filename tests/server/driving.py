"""Clients for the server's tests: a wire in memory, and a client that reads with h11 what the server wrote."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import h11
from anyio.abc import ByteStream

from illm.loop.wake import Wake
from illm.server.limits import Limits
from illm.server.service import Service
from illm.server.serving import Server, serve

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *lines, b"", body])


class Pipe:
    """One direction of a wire: like a socket's buffer, `room` bytes of it."""

    def __init__(self, room: int) -> None:
        self.data = bytearray()
        self.room = room
        self.ended = self.broken = False
        self.wake = Wake()

    async def write(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        for at in range(0, len(data), self.room):
            while len(self.data) >= self.room and not (self.broken or self.ended):
                await self.wake.wait()
            if self.broken:
                raise anyio.BrokenResourceError
            if self.ended:
                raise anyio.ClosedResourceError
            self.data += data[at : at + self.room]
            self.wake.set()

    async def read(self, size: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        while not self.data:
            if self.broken:
                raise anyio.ClosedResourceError
            if self.ended:
                raise anyio.EndOfStream
            await self.wake.wait()
        data = bytes(self.data[:size])
        del self.data[:size]
        self.wake.set()
        return data


class Wire(ByteStream):
    """One end of a wire."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.writes: list[bytes] = []

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.incoming.read(max_bytes)

    async def send(self, item: bytes) -> None:
        self.writes.append(item)
        await self.outgoing.write(item)

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.outgoing.ended = True
        self.outgoing.wake.set()

    async def aclose(self) -> None:
        self.incoming.broken = self.outgoing.ended = True
        self.incoming.wake.set()
        self.outgoing.wake.set()
        await anyio.lowlevel.checkpoint()


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    informational: list[int] = field(default_factory=list)


class Client:
    """Writes bytes, reads responses."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.rest = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def flood(self, data: bytes) -> None:
        """Send `data` again and again until the server has closed."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await self.send(data)
                await idle(2)

    async def answer(self, method: str = "GET") -> Answer:
        """Read one response; raises `h11.RemoteProtocolError` if it breaks off."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        answer = Answer(0, {}, b"")
        if self.rest:
            parser.receive_data(self.rest)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                try:
                    parser.receive_data(await self.stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    parser.receive_data(b"")
            elif isinstance(event, h11.InformationalResponse):
                answer.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status, answer.headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.rest = parser.trailing_data[0]
                return answer
            else:
                raise AssertionError(event)

    async def until(self, marker: bytes) -> bytes:
        """Read until `marker` has come."""
        while marker not in self.rest:
            self.rest += await self.stream.receive()
        at = self.rest.index(marker) + len(marker)
        out, self.rest = self.rest[:at], self.rest[at:]
        return out

    async def to_end(self) -> bytes:
        """Read until the server closes."""
        try:
            while True:
                self.rest += await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return self.rest


@dataclass
class Bench:
    """A server without sockets, whose clock is ours."""

    server: Server
    service: Service
    tasks: anyio.abc.TaskGroup
    wires: list[Wire] = field(default_factory=list)

    def connect(self, room: int = 1 << 20) -> Client:
        """A new client; `room` is how much the server may write that nobody reads."""
        up, down = Pipe(1 << 20), Pipe(room)
        self.wires.append(Wire(up, down))
        self.tasks.start_soon(self.server.handle, self.wires[-1], self.service)
        return Client(Wire(down, up))

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.server.check(self.service, self.service.now + seconds)


@asynccontextmanager
async def bench(app, limits: Limits | None = None) -> AsyncIterator[Bench]:
    """Run a server in memory; whatever hangs is ended after a while."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            server = Server(app, limits or Limits(), "", {})
            yield Bench(server, server.service(tasks), tasks)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def listening(app, **options) -> AsyncIterator[tuple[str, int]]:
    """Run a server on a port of its own; it must drain when the block is left."""
    with anyio.fail_after(20):
        shutdown = options.setdefault("shutdown", anyio.Event())
        async with anyio.create_task_group() as tasks:
            run = {"host": "127.0.0.1", "port": 0} | options

            async def start(*, task_status) -> None:
                await serve(app, **run, task_status=task_status)

            addresses = await tasks.start(start)
            try:
                yield addresses[0]
            finally:
                shutdown.set()


async def idle(turns: int = 10) -> None:
    """Let every task run until it waits for something."""
    for _ in range(turns):
        await anyio.wait_all_tasks_blocked()
        await anyio.lowlevel.checkpoint()


async def reply(send, body: bytes = b"ok", status: int = 200, headers=()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    return body


async def echo(scope, receive, send) -> None:
    """Answer with what was asked."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = await read_body(receive)
    await reply(send, b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], body))
