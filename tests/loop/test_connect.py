"""Opening wires: the first address that answers, whatever the others do, and nothing left behind."""

import socket
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from illm.loop import connect
from illm.loop.connect import open_tcp, open_unix
from illm.loop.wire import Wire

pytestmark = pytest.mark.anyio


class Owner:
    """Minds nothing."""

    def received(self, data):
        pass

    def ended(self, broken):
        pass

    def drained(self):
        pass

    def closed(self):
        pass


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def resolving(monkeypatch: pytest.MonkeyPatch, *targets) -> None:
    async def getaddrinfo(host, port, **_more):
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in targets]

    monkeypatch.setattr(connect.anyio, "getaddrinfo", getaddrinfo)


def peer(wire: Wire) -> str:
    return wire.socket.getpeername()[0]


async def test_a_refused_address_is_followed_by_the_next_at_once(monkeypatch, listener):
    port = listener.getsockname()[1]
    resolving(monkeypatch, (socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(connect, "STAGGER", 1000)
    with anyio.fail_after(5):
        wire = await open_tcp(Owner(), "name", port)
        assert peer(wire) == "127.0.0.1"
        wire.abort()


async def test_a_silent_address_is_tried_on_beside_the_next(monkeypatch, listener):
    port = listener.getsockname()[1]
    resolving(monkeypatch, (socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(connect, "STAGGER", 0)
    real, cancelled = connect._connect, []

    async def one_is_silent(target):
        if target[1][0] == "127.0.0.2":
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(target)
        return await real(target)

    monkeypatch.setattr(connect, "_connect", one_is_silent)
    with anyio.fail_after(5):
        wire = await open_tcp(Owner(), "name", port)
        assert peer(wire) == "127.0.0.1"
        assert cancelled
        wire.abort()


async def test_where_all_refuse_the_first_reason_counts(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    resolving(monkeypatch, (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2"))
    with anyio.fail_after(5), pytest.raises(ConnectionRefusedError):
        await open_tcp(Owner(), "name", port)


async def test_families_take_turns(monkeypatch):
    six, four = socket.AF_INET6, socket.AF_INET
    resolving(monkeypatch, (six, "::1"), (six, "::2"), (four, "127.0.0.1"), (four, "127.0.0.2"))
    assert [where[0] for _, where in await connect._resolve("name", 80)] == ["::1", "127.0.0.1", "::2", "127.0.0.2"]


async def test_an_address_is_not_resolved(monkeypatch):
    resolving(monkeypatch)
    assert await connect._resolve("127.0.0.1", 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert await connect._resolve("::1", 80) == [(socket.AF_INET6, ("::1", 80))]


async def test_cancelled_it_leaves_no_socket(monkeypatch, listener):
    made = []

    class Remembered(socket.socket):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made.append(self)

    async def never(raw):
        await anyio.sleep_forever()

    monkeypatch.setattr(connect.socket, "socket", Remembered)
    monkeypatch.setattr(connect.anyio, "wait_writable", never)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_tcp, Owner(), "127.0.0.1", listener.getsockname()[1])
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert [raw.fileno() for raw in made] == [-1]


async def test_a_unix_socket_whose_queue_is_full_is_waited_for(tmp_path):
    path = str(tmp_path / "s")
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener, anyio.fail_after(5):
        listener.bind(path)
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                filler = socket.socket(socket.AF_UNIX)
                waiting.append(filler)
                filler.setblocking(False)
                filler.connect(path)
        wires = []

        async def open_one():
            wires.append(await open_unix(Owner(), path))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_one)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert not wires
            listener.accept()[0].close()
        wires[0].abort()
        await anyio.lowlevel.checkpoint()
    for filler in waiting:
        filler.close()
