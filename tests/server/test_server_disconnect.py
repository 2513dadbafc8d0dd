"""Clients that leave, and how the application learns of it."""

import anyio
import h11
import pytest
from driving import GET, bench, idle, post, reply

from illm.server import ClientDisconnected, Limits

pytestmark = pytest.mark.anyio


class Watched:
    """An application that runs until its client leaves, by the extension's word."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = anyio.Event()
        self.left = anyio.Event()
        self.register = None

    def gone(self) -> None:
        self.calls += 1
        self.left.set()

    async def __call__(self, scope, receive, send):
        self.register = scope["extensions"]["illm.disconnect"]["register"]
        self.register(self.gone)
        self.running.set()
        await self.left.wait()


@pytest.mark.parametrize("how", ["aclose", "send_eof"])
async def test_the_callback_tells_at_once_that_the_client_left(how):
    app = Watched()
    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        await app.running.wait()
        await getattr(client.stream, how)()
        await app.left.wait()
        await idle()
        assert app.calls == 1
        late = []
        app.register(lambda: late.append(1))
        assert late == [1]


async def test_the_callback_tells_while_pipelined_requests_wait():
    app = Watched()
    async with bench(app) as server:
        client = server.connect()
        await client.send(GET * 3)
        await app.running.wait()
        await client.stream.aclose()
        await app.left.wait()


async def test_no_callback_after_a_complete_response():
    calls = []
    kept = []

    async def app(scope, receive, send):
        kept.append(scope["extensions"]["illm.disconnect"]["register"])
        kept[-1](lambda: calls.append(1))
        await reply(send)

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        await client.answer()
        await client.stream.aclose()
        await idle()
        kept[0](lambda: calls.append(2))
        assert calls == []


async def test_a_failing_callback_hurts_nobody_else(caplog):
    app = Watched()
    app_gone = app.gone

    def gone() -> None:
        raise ValueError("callback")

    async def outer(scope, receive, send):
        scope["extensions"]["illm.disconnect"]["register"](gone)
        await app(scope, receive, send)

    async with bench(outer) as server:
        client = server.connect()
        await client.send(GET)
        await app.running.wait()
        await client.stream.aclose()
        await app.left.wait()
        assert app.calls == 1
        assert app_gone == app.gone
    assert "ValueError: callback" in caplog.text


def test_it_is_an_oserror_as_asgi_says():
    assert issubclass(ClientDisconnected, OSError)


async def test_receive_waits_for_the_client_to_leave():
    waiting, left = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        await waiting.wait()
        await idle()
        assert not left.is_set()
        await client.stream.aclose()
        await left.wait()


async def test_receive_after_the_response_is_a_disconnect():
    seen = []

    async def app(scope, receive, send):
        await receive()
        async with anyio.create_task_group() as tasks:

            async def watch():
                seen.append((await receive())["type"])

            tasks.start_soon(watch)
            await idle(2)
            await reply(send)

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET + GET)
        for _ in range(2):
            assert (await client.answer()).status == 200
        await idle()
        assert seen == ["http.disconnect"] * 2


async def test_leaving_amid_the_body():
    seen = []
    done = anyio.Event()

    async def app(scope, receive, send):
        try:
            while True:
                seen.append(await receive())
                if seen[-1]["type"] == "http.disconnect":
                    return
        finally:
            done.set()

    async with bench(app) as server:
        client = server.connect()
        await client.send(post(b"abc")[:-1])
        await idle()
        await client.stream.aclose()
        await done.wait()
        assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("grouped", [False, True])
async def test_send_says_that_nobody_listens_and_the_log_does_not(grouped, caplog):
    raised = anyio.Event()

    async def stream(send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        except ClientDisconnected:
            raised.set()
            raise

    async def app(scope, receive, send):
        if grouped:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream, send)
        else:
            await stream(send)

    async with bench(app) as server:
        client = server.connect(room=5000)
        await client.send(GET)
        await client.until(b"x")
        await client.stream.aclose()
        await raised.wait()
        await idle()
    assert caplog.records == []


async def test_a_whole_response_reaches_a_client_that_has_said_its_last_word():
    written, release = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        await reply(send, b"x" * 50_000)
        written.set()
        await release.wait()

    async with bench(app) as server:
        client = server.connect(room=1000)
        await client.send(GET)
        await written.wait()
        await client.stream.send_eof()
        await idle()
        release.set()
        assert len((await client.answer()).body) == 50_000
        assert await client.to_end() == b""


async def test_a_response_that_was_given_up_on_the_way_breaks_off(caplog):
    async def app(scope, receive, send):
        with anyio.CancelScope() as hurry:
            hurry.cancel()
            await reply(send, b"x" * 500_000)

    async with bench(app, Limits(write_bytes=10_000)) as server:
        client = server.connect(room=1000)
        await client.send(GET)
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()
