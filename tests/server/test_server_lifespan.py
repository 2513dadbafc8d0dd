"""The life of an application: started before the first request, ended after the last."""

import anyio
import pytest
from driving import GET, Client, listening, reply

from illm.server import LifespanFailed, Limits, serve

pytestmark = pytest.mark.anyio


class Recorded:
    """An application that writes down what happens to it."""

    def __init__(self, startup="complete", shutdown="complete") -> None:
        self.log: list[str] = []
        self.startup, self.shutdown = startup, shutdown
        self.begun, self.release = anyio.Event(), anyio.Event()

    def begin_drain(self) -> None:
        self.log.append("drain")

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for phase, verdict in (("startup", self.startup), ("shutdown", self.shutdown)):
                assert (await receive())["type"] == f"lifespan.{phase}"
                self.log.append(phase)
                scope["state"]["key"] = "value"
                await send({"type": f"lifespan.{phase}.{verdict}", "message": f"no {phase}"})
            return
        self.log.append(scope["state"]["key"])
        self.begun.set()
        await self.release.wait()
        await reply(send, b"done")
        self.log.append("answered")


async def connect(address) -> Client:
    return Client(await anyio.connect_tcp(*address))


async def test_a_whole_life_in_order():
    app, shutdown = Recorded(), anyio.Event()
    async with listening(app, shutdown=shutdown) as address:
        busy, resting = await connect(address), await connect(address)
        await busy.send(GET)
        await app.begun.wait()
        app.release.set()
        assert (await busy.answer()).body == b"done"
        app.release, app.begun = anyio.Event(), anyio.Event()
        await busy.send(GET)
        await app.begun.wait()

        shutdown.set()
        assert await resting.to_end() == b""  # the idle one is closed at once
        assert app.log[-2:] == ["value", "drain"]
        with pytest.raises(OSError):
            await anyio.connect_tcp(*address)
        app.release.set()
        answer = await busy.answer()
        assert answer.body == b"done"
        assert answer.headers[b"connection"] == b"close"
        assert await busy.to_end() == b""
    assert app.log == ["startup", "value", "answered", "value", "drain", "answered", "shutdown"]
    for client in (busy, resting):
        await client.stream.aclose()


async def test_a_request_that_does_not_end_is_cut_off(caplog):
    app = Recorded()
    async with listening(app, limits=Limits(drain=0.05)) as address:
        client = await connect(address)
        await client.send(GET)
        await app.begun.wait()
    assert app.log == ["startup", "value", "drain", "shutdown"]
    assert await client.to_end() == b""
    assert "did not finish" in caplog.text
    await client.stream.aclose()


async def test_an_application_that_cannot_start():
    app = Recorded(startup="failed")
    with pytest.raises(LifespanFailed, match="no startup"):
        await serve(app, port=0)
    assert app.log == ["startup"]


async def test_an_application_that_cannot_end():
    shutdown = anyio.Event()
    shutdown.set()
    with pytest.raises(LifespanFailed, match="no shutdown"):
        await serve(Recorded(shutdown="failed"), port=0, shutdown=shutdown)


async def test_an_application_that_does_not_end(caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await anyio.sleep_forever()

    shutdown = anyio.Event()
    shutdown.set()
    await serve(app, port=0, shutdown=shutdown, limits=Limits(drain=0.05))
    assert "did not shut down" in caplog.text


async def test_an_application_whose_root_dies_is_not_served_on(caplog):
    die = anyio.Event()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await die.wait()
            raise ValueError("the root")
        await reply(send)
        die.set()

    with pytest.raises(LifespanFailed, match="the root"):
        await _serve_one(app)


async def _serve_one(app):
    addresses = []

    class Started:
        def started(self, value=None):
            addresses.extend(value)
            ready.set()

    ready = anyio.Event()

    async def ask():
        await ready.wait()
        async with await anyio.connect_tcp(*addresses[0]) as stream:
            await stream.send(GET)
            await Client(stream).answer()

    failures = []

    async def run():
        try:
            await serve(app, port=0, task_status=Started())
        except LifespanFailed as exc:
            failures.append(exc)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(run)
    raise failures[0]


@pytest.mark.parametrize("raises", [True, False])
async def test_an_application_without_a_lifespan(raises):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            if raises:
                raise NotImplementedError
            return
        await reply(send)

    async with listening(app) as address:
        client = await connect(address)
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.stream.aclose()


async def test_the_port_is_bound_before_the_application_starts():
    occupied, release = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        occupied.set()
        await release.wait()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(OSError):
            await serve(app, port=port)
    assert not occupied.is_set()
