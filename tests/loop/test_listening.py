"""Accepting: owners that break their promise, and what the kernel holds for us."""

import socket
import struct
import sys

import anyio
import pytest
from anyio.abc import TaskGroup

from illm.loop.listening import accept_from

pytestmark = pytest.mark.anyio


class Owner:
    """Says back what it hears; cannot stand an `x`."""

    def opened(self, wire):
        self.wire = wire

    def received(self, data):
        if data == b"x":
            raise ValueError("a broken promise")
        self.wire.write(data)

    def ended(self, broken):
        self.wire.close()

    def drained(self):
        pass

    def closed(self):
        pass


async def start(tasks: TaskGroup, backlog: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    listener.setblocking(False)
    same = listener.dup()
    accepting = anyio.create_task_group()

    async def run():
        async with accepting:
            await accept_from([listener], Owner, accepting, backlog=backlog)

    tasks.start_soon(run)
    await anyio.wait_all_tasks_blocked()
    return same


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio closes such a connection itself, and logs it
async def test_an_owner_that_raises_ends_nobody_else(caplog):
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            with await start(tasks, 5) as listener:
                address = listener.getsockname()
                async with await anyio.connect_tcp(*address) as good, await anyio.connect_tcp(*address) as bad:
                    await bad.send(b"x")
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await bad.receive()
                    await good.send(b"hello")
                    assert await good.receive() == b"hello"
            tasks.cancel_scope.cancel()
    assert "a broken promise" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long the queue may be")
async def test_the_queue_is_as_long_as_was_said():
    async with anyio.create_task_group() as tasks:
        with await start(tasks, 321) as listener:
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
            assert struct.unpack_from("I", info, 28) == (321,)  # `tcpi_sacked`, which has this meaning there
        tasks.cancel_scope.cancel()
