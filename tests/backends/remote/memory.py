"""Upstream connections without sockets, so that a test's clock can jump: memory streams in place of `connect`."""

import math
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.streams.stapled import StapledObjectStream

from illm.backends.remote import connection, workers
from illm.backends.remote.server import Server
from illm.loop.stream_wire import StreamWire
from illm.loop.tasks import hold
from illm.loop.wire import Receiver, Wire

Serve = Callable[[StapledObjectStream[bytes]], Awaitable[None]]


class Pipe(StapledObjectStream[bytes]):
    """A byte stream as far as a connection minds."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await super().receive()


class Network:
    """What `connect` finds.

    Args:
        tasks: where each connection's server end runs.
        serve: the server; it closes its end.
    """

    def __init__(self, tasks: TaskGroup, serve: Serve) -> None:
        self._tasks = tasks
        self._serve = serve
        self.hangs = False
        """Whether nobody accepts."""
        self.opened = 0
        self.times: list[float] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of every way to connect."""
        for module in (connection, workers):
            monkeypatch.setattr(module, "connect", self.connect)

    async def connect(self, server: Server, receiver: Receiver) -> Wire:
        """Stand in for `connection.connect`."""
        self.times.append(anyio.current_time())
        if self.hangs:
            await anyio.sleep_forever()
        self.opened += 1
        up_send, up_receive = anyio.create_memory_object_stream[bytes](0)
        down_send, down_receive = anyio.create_memory_object_stream[bytes](math.inf)
        self._tasks.start_soon(self._end, StapledObjectStream(down_send, up_receive))
        wire = StreamWire(Pipe(up_send, down_receive), receiver)  # type: ignore[arg-type]
        hold(wire.run, "wire")  # as real ones are
        return wire

    async def _end(self, stream: StapledObjectStream[bytes]) -> None:
        async with stream:
            await self._serve(stream)
