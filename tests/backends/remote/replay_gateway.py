"""The whole way: a client that is a socket, our own server, the real application and workers, a replay server."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import h11
import orjson
from anyio.abc import ByteStream

from backends.remote.replay_server import Replay, replay_server
from backends.remote.replay_tables import FRAMEWORKS
from illm.actors.ref import Ref, State
from illm.asgi.app import create_app
from illm.config import Config
from illm.server import serve


class Answer(NamedTuple):
    """What a client got; `complete` says whether it ended as HTTP says."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @property
    def error(self) -> Any:
        """The error that it is."""
        return orjson.loads(self.body)["error"]


def read_answer(method: str, received: bytes) -> Answer:
    """Read a response, with another parser than either side of the gateway has."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(received)
    parser.receive_data(b"")
    status, headers, body = 0, {}, b""
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            return Answer(status, headers, body, False)
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return Answer(status, headers, body, isinstance(event, h11.EndOfMessage))


class Asking:
    """One request on a connection of its own."""

    def __init__(self, stream: ByteStream, method: str) -> None:
        self._stream = stream
        self._method = method
        self.received = b""

    async def until(self, marker: bytes) -> None:
        """Read until that has come."""
        while marker not in self.received:
            self.received += await self._stream.receive()

    async def answer(self) -> Answer:
        """Read to the end."""
        try:
            while True:
                self.received += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return read_answer(self._method, self.received)


@dataclass
class ReplayGateway:
    """The gateway, and what it asks."""

    upstream: Replay
    address: tuple[str, int]
    ref: Ref

    @property
    def connections(self) -> int:
        """How many connections to its server it keeps."""
        (replica,) = self.ref.served.details()["replicas"]
        return int(replica["connections"])

    @asynccontextmanager
    async def asking(self, sent: bytes) -> AsyncIterator[Asking]:
        """Send a request as it was recorded; leaving the block leaves the gateway."""
        async with await anyio.connect_tcp(*self.address) as stream:
            await stream.send(sent)
            yield Asking(stream, sent.partition(b" ")[0].decode())

    async def ask(self, sent: bytes) -> Answer:
        """Send a request as it was recorded, which says that the connection is for one, and return the answer."""
        async with self.asking(sent) as asking:
            return await asking.answer()


@asynccontextmanager
async def replay_gateway(recordings: str, framework: str | None = None, **options: Any) -> AsyncIterator[ReplayGateway]:
    """Run the gateway in front of one server's recordings while the block lasts.

    Args:
        recordings: their folder.
        framework: what the server stands behind, where not what it is.
        options: of the configuration.
    """
    name = framework or FRAMEWORKS[recordings]
    with anyio.fail_after(60):
        async with replay_server(recordings) as upstream, anyio.create_task_group() as tasks:
            addresses = {"ollama_base_url": (), f"{name}_base_url": (upstream.server.url,)}
            app, shutdown = create_app(Config(framework=name, **addresses | options)), anyio.Event()

            async def run(*, task_status: Any) -> None:
                await serve(app, port=0, shutdown=shutdown, task_status=task_status)

            (address,) = await tasks.start(run)
            (ref,) = (await app._runtime.directory()).list(name)
            while ref.state is not State.READY:
                await anyio.lowlevel.checkpoint()
            yield ReplayGateway(upstream, address, ref)
            shutdown.set()
