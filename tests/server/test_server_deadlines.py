"""Clients that take too long.  The clock is the test's: nothing here waits."""

import anyio
import h11
import pytest
import trio
import trio.testing
from driving import GET, bench, echo, idle, post, reply

from illm.loop.wire import HIGH_WATER
from illm.server import ClientDisconnected, Limits


@pytest.mark.anyio
async def test_a_head_that_drips_is_a_408():
    async with bench(echo) as server:
        client = server.connect()
        for byte in GET[:9]:
            await client.send(bytes([byte]))
            await idle(2)
            server.later(1)
        server.later(1)
        answer = await client.answer()
        assert answer.status == 408
        assert answer.headers[b"connection"] == b"close"
        assert await client.to_end() == b""


@pytest.mark.anyio
@pytest.mark.parametrize(("requests", "patience"), [(0, 10), (1, 75)])
async def test_an_idle_connection_is_closed_without_a_word(requests, patience):
    async with bench(echo) as server:
        client = server.connect()
        for _ in range(requests):
            await client.send(GET)
            await client.answer()
        await idle()
        server.later(patience - 0.5)
        await idle()
        assert not server.wires[0].outgoing.ended
        server.later(1)
        assert await client.to_end() == b""


@pytest.mark.anyio
async def test_the_second_head_has_its_own_deadline():
    async with bench(echo) as server:
        client = server.connect()
        await client.send(GET + GET[:5])
        assert (await client.answer()).status == 200
        await idle()
        server.later(11)
        assert (await client.answer()).status == 408


@pytest.mark.anyio
async def test_a_body_that_stalls_is_a_408_and_a_disconnect():
    seen = []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            seen.append(message["body"])
        seen.append(message["type"])

    async with bench(app) as server:
        client = server.connect()
        wire = post(b"abc")
        await client.send(wire[:-2])
        await idle()
        server.later(29)
        await client.send(wire[-2:-1])
        await idle()
        server.later(29)
        await idle()
        assert seen == [b"a", b"b"]
        server.later(2)
        assert (await client.answer()).status == 408
        assert seen == [b"a", b"b", "http.disconnect"]


@pytest.mark.anyio
async def test_a_body_that_nobody_waits_for_has_no_deadline():
    release = anyio.Event()

    async def app(scope, receive, send):
        await release.wait()
        await reply(send)

    async with bench(app) as server:
        client = server.connect()
        await client.send(post(b"abc")[:-1])
        await idle()
        server.later(1000)
        await idle()
        release.set()
        assert (await client.answer()).status == 200
        await idle()
        server.later(31)  # now it is the server that waits for the rest
        assert await client.to_end() == b""


@pytest.mark.anyio
@pytest.mark.parametrize("catches", [True, False])
async def test_a_reader_that_stalls_is_dropped(catches, caplog):
    ended = anyio.Event()
    called = []

    async def app(scope, receive, send):
        scope["extensions"]["illm.disconnect"]["register"](lambda: called.append(1))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        except ClientDisconnected:
            if not catches:
                raise
            await receive()
            assert (await receive())["type"] == "http.disconnect"
        finally:
            ended.set()

    async with bench(app) as server:
        client = server.connect(room=5000)
        await client.send(GET)
        await idle()
        server.later(29)
        await idle()
        assert not ended.is_set()
        server.later(2)
        await ended.wait()
        assert called == [1]
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()
    assert caplog.records == []


@pytest.mark.anyio
async def test_a_slow_reader_of_a_large_body_is_not_a_stalled_one():
    async def app(scope, receive, send):
        await reply(send, b"x" * 20 * HIGH_WATER)

    async with bench(app, Limits(write_bytes=HIGH_WATER)) as server:
        client = server.connect(room=HIGH_WATER)
        await client.send(GET)
        for _ in range(15):
            await idle(2)
            server.later(20)
            client.rest += await client.stream.receive(HIGH_WATER)
        assert len((await client.answer()).body) == 20 * HIGH_WATER


@pytest.mark.anyio
async def test_a_client_that_does_not_read_its_last_answer_is_not_waited_for_long():
    async def app(scope, receive, send):
        await reply(send, b"x" * 50_000, headers=[(b"connection", b"close")])

    async with bench(app) as server:
        client = server.connect(room=1000)
        await client.send(GET)
        await idle()
        server.later(29)
        await idle()
        assert not server.wires[0].incoming.broken
        server.later(2)
        await idle()
        assert server.wires[0].incoming.broken


@pytest.mark.anyio
async def test_the_goodbye_to_one_too_many_ends():
    async with bench(echo, Limits(connections=1)) as server:
        server.connect()
        await idle()
        second = server.connect()
        assert (await second.answer()).status == 503
        await idle()
        assert not server.wires[1].incoming.broken  # it may still be sending
        server.later(2)
        await idle()
        assert server.wires[1].incoming.broken


@pytest.mark.anyio
async def test_the_goodbye_to_a_refused_client_ends():
    async with bench(echo, Limits(body_bytes=10)) as server:
        client = server.connect()
        await client.send(post(b"x" * 11)[:-5])
        assert (await client.answer()).status == 413
        await idle()
        assert not server.wires[0].incoming.broken  # it may still be sending
        server.later(3)
        await idle()
        assert server.wires[0].incoming.broken


@pytest.mark.anyio
async def test_the_goodbye_to_a_refused_client_is_not_endless():
    async with bench(echo, Limits(body_bytes=10, body_buffer=5000)) as server:
        client = server.connect()
        await client.send(post(b"x" * 11))
        await client.flood(b"x" * 1000)


@pytest.mark.trio
async def test_slowloris_against_the_real_watchdog(autojump_clock: trio.testing.MockClock):
    async with bench(echo) as server:
        server.tasks.start_soon(server.server.watch, server.service)
        began = trio.current_time()
        clients = [server.connect() for _ in range(20)]
        for byte in GET[:10]:
            for client in clients:
                await client.send(bytes([byte]))
            await trio.sleep(0.9)
        for client in clients:
            assert (await client.answer()).status == 408
        assert 10 <= trio.current_time() - began < 11.5
