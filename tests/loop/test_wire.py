"""Both drivers of a wire keep the same promises, over real sockets."""

import asyncio
import select
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest

from illm.loop.asyncio_wire import AsyncioWire
from illm.loop.stream_wire import StreamWire
from illm.loop.wake import Wake, native_loop
from illm.loop.wire import HIGH_WATER

pytestmark = pytest.mark.anyio


class Owner:
    """Notes what it is told."""

    def __init__(self):
        self.data = b""
        self.told = []
        self.changed = Wake()

    def received(self, data):
        assert data
        self.data += data
        self.changed.set()

    def ended(self, broken):
        self.told.append("broken" if broken else "ended")
        self.changed.set()

    def drained(self):
        self.told.append("drained")
        self.changed.set()

    def closed(self):
        self.told.append("closed")
        self.changed.set()

    async def until(self, condition):
        with anyio.fail_after(5):
            while not condition():
                await self.changed.wait()


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    return near, far


@asynccontextmanager
async def wired():
    """A wire of the running loop's own driver, its owner, and the other end as a plain non-blocking socket."""
    near, far = tcp_pair()
    far.setblocking(False)
    owner = Owner()
    async with anyio.create_task_group() as tasks:
        try:
            if native_loop() is not None:
                loop = asyncio.get_running_loop()
                _, wire = await loop.create_connection(lambda: AsyncioWire(owner), sock=near)
            else:
                near.setblocking(False)
                wire = StreamWire(await anyio.abc.SocketStream.from_socket(near), owner)
                tasks.start_soon(wire.run)
            yield wire, owner, far
        finally:
            far.close()
            wire.abort()
            await owner.until(lambda: "closed" in owner.told)


async def read_from(far, size):
    data = b""
    with anyio.fail_after(5):
        while len(data) < size:
            await anyio.wait_readable(far)
            piece = far.recv(1 << 20)
            if not piece:
                break
            data += piece
    return data


async def test_bytes_go_both_ways():
    async with wired() as (wire, owner, far):
        far.send(b"hello")
        await owner.until(lambda: owner.data == b"hello")
        assert wire.write(b"there")
        assert await read_from(far, 5) == b"there"
        assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_slow_peer_asks_for_a_pause_and_loses_nothing():
    async with wired() as (wire, owner, far):
        pieces = [bytes([at % 251]) * 60_000 for at in range(400)]
        written = 0
        for piece in pieces:
            written += 1
            if not wire.write(piece):
                break
        assert written < len(pieces)
        assert wire.unsent
        for piece in pieces[written : written + 3]:
            wire.write(piece)  # not kept from it
        whole = b"".join(pieces[: written + 3])
        assert await read_from(far, len(whole)) == whole
        await owner.until(lambda: "drained" in owner.told)
        assert wire.write(b"on")
        assert await read_from(far, 2) == b"on"
        assert not wire.unsent


async def test_a_paused_wire_hands_over_nothing_until_resumed():
    async with wired() as (wire, owner, far):
        wire.pause()
        wire.pause()
        far.send(b"later")
        await anyio.wait_all_tasks_blocked()
        assert owner.data == b""
        wire.resume()
        wire.resume()
        await owner.until(lambda: owner.data == b"later")


async def test_the_other_side_closes_its_half():
    async with wired() as (wire, owner, far):
        far.send(b"last words")
        far.shutdown(socket.SHUT_WR)
        await owner.until(lambda: owner.told == ["ended"])
        assert owner.data == b"last words"
        wire.write(b"an answer all the same")
        assert await read_from(far, 22) == b"an answer all the same"


async def test_we_close_our_half():
    async with wired() as (wire, owner, far):
        wire.write(b"x" * HIGH_WATER * 8)
        wire.end()
        assert await read_from(far, 1 << 30) == b"x" * HIGH_WATER * 8
        far.send(b"still here")
        await owner.until(lambda: owner.data == b"still here")


async def test_closing_sends_what_was_written():
    async with wired() as (wire, owner, far):
        wire.write(b"x" * HIGH_WATER * 100)
        wire.close()
        wire.write(b"too late")
        assert await read_from(far, 1 << 30) == b"x" * HIGH_WATER * 100
        await owner.until(lambda: "closed" in owner.told)
        wire.close()
        wire.abort()
        wire.pause()
        wire.resume()
        wire.end()
        assert wire.write(b"dropped")
        assert not wire.unsent


async def test_a_reset_is_a_broken_end():
    async with wired() as (_wire, owner, far):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        far.close()
        await owner.until(lambda: owner.told == ["broken", "closed"])


async def test_aborting_with_a_reset_is_seen_as_one():
    async with wired() as (wire, owner, far):
        wire.write(b"half an answer")
        assert await read_from(far, 14) == b"half an answer"
        wire.abort(reset=True)
        await owner.until(lambda: owner.told == ["broken", "closed"])
        with pytest.raises(ConnectionResetError):
            await read_from(far, 1)


async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind():
    wake, woken = Wake(), []

    async def wait():
        await wake.wait()
        woken.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.move_on_after(0.001):
            await wake.wait()
        wake.set()
    assert woken == [True]
    with suppress(TimeoutError), anyio.fail_after(0):
        await wake.wait()
    wake.set()


async def test_what_was_cancelled_does_not_pile_up():
    wake = Wake()
    for _ in range(100):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wake.wait()
    assert not wake._events
    assert not wake._futures


async def test_a_wire_whose_task_is_cancelled_has_closed():
    near, far = tcp_pair()
    owner = Owner()
    with far:
        async with anyio.create_task_group() as tasks:
            near.setblocking(False)
            tasks.start_soon(StreamWire(await anyio.abc.SocketStream.from_socket(near), owner).run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert owner.told == ["broken", "closed"]


async def test_a_paused_wire_breaks_where_writing_fails():
    async with wired() as (wire, owner, far):
        wire.pause()
        far.send(b"held back")
        await anyio.wait_all_tasks_blocked()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        far.close()
        with anyio.fail_after(5):
            while "closed" not in owner.told:
                wire.write(b"to nobody")
                await anyio.wait_all_tasks_blocked()
        assert owner.told == ["broken", "closed"]
        assert owner.data == b""


async def test_a_socket_whose_other_side_has_left_takes_no_option():
    class Left:
        family = socket.AF_INET

        def setsockopt(self, *_):
            raise OSError("invalid argument")

    class Transport:
        def get_extra_info(self, _):
            return Left()

    AsyncioWire(Owner()).connection_made(Transport())


async def test_what_has_come_is_in_the_socket_until_the_owner_is_told():
    seen = []

    async def look(wire, owner):
        await owner.changed.wait()
        readable, _, _ = select.select([wire.socket.fileno()], [], [], 0)
        seen.append(bool(readable) or owner.data.endswith(b"late"))

    def answered(owner, far, data):
        if data == b"answer":
            far.send(b"late")  # so that the next read need not wait
        Owner.received(owner, data)

    for _ in range(30):  # who has a turn first is a matter of chance
        async with wired() as (wire, owner, far), anyio.create_task_group() as tasks:
            owner.received = partial(answered, owner, far)
            tasks.start_soon(look, wire, owner)
            await anyio.wait_all_tasks_blocked()
            far.send(b"answer")
    assert seen == [True] * 30
