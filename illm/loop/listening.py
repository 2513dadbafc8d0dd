"""Accepting: every connection of some listening sockets becomes a wire with an owner."""

import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio
from anyio.abc import SocketStream, TaskGroup

from illm.loop.asyncio_wire import AsyncioWire
from illm.loop.stream_wire import StreamWire
from illm.loop.wake import native_loop
from illm.loop.wire import Receiver, Wire

logger = logging.getLogger("illm.loop")

PAUSE = 0.1
"""Seconds until the next try where accepting failed: most often there are no descriptors left."""
_BURST = 64
"""Connections accepted in a row before others may run."""
# From 3.13 on a server's end removes its path, where other workers accept still.
_KEPT: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class Owner(Receiver, Protocol):
    """A receiver that is made before its wire."""

    def opened(self, wire: Wire) -> None:
        """Take the wire; called once, first."""


async def accept_from(
    sockets: Sequence[socket.socket], make: Callable[[], Owner], tasks: TaskGroup, *, backlog: int
) -> None:
    """Accept connections until cancelled; the sockets are closed then.

    Args:
        sockets: listening, not blocking.
        make: returns the owner of one more connection.
        tasks: where wires run that need a task; they outlive this call.
        backlog: connections the kernel may hold.
    """
    loop = native_loop()
    servers: list[Any] = []
    try:
        if loop is None:
            async with anyio.create_task_group() as accepting:
                for raw in sockets:
                    accepting.start_soon(_accept, raw, make, tasks)
        else:
            for raw in sockets:
                unix = raw.family == socket.AF_UNIX
                create = loop.create_unix_server if unix else loop.create_server
                servers.append(await create(lambda: _Accepted(make()), sock=raw, **(_KEPT if unix else {})))
                # Said afterwards: asyncio would also try as many accepts in a row, and log each that fails.
                raw.listen(backlog)
            await anyio.sleep_forever()
    finally:
        for server in servers:
            server.close()
        for raw in sockets:
            raw.close()


class _Accepted(AsyncioWire):
    __slots__ = ("_owner",)

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._owner: Owner | None = owner

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.opened(self)


async def _accept(raw: socket.socket, make: Callable[[], Owner], tasks: TaskGroup) -> None:
    while True:
        await anyio.wait_readable(raw)
        try:
            for _ in range(_BURST):
                client, _ = raw.accept()
                tasks.start_soon(_run, client, make)
        except BlockingIOError:  # another process that listens here was quicker, or this was all
            pass
        except OSError as exc:
            logger.warning("accepting a connection failed: %s", exc)
            await anyio.sleep(PAUSE)


async def _run(client: socket.socket, make: Callable[[], Owner]) -> None:
    try:
        stream = await SocketStream.from_socket(client)
    except OSError:  # it has left already
        client.close()
        return
    try:
        await run_stream(stream, make())
    except Exception:  # from an owner that broke its promise; the others must not end of it
        logger.exception("a connection's owner failed")


async def run_stream(stream: anyio.abc.ByteStream, owner: Owner) -> None:
    """Give an open stream to its owner and move its bytes until it is closed."""
    wire = StreamWire(stream, owner)
    owner.opened(wire)
    await wire.run()
