"""Health: what probes and traffic say, what requests are told meanwhile, and how it comes back by itself."""

from collections.abc import Sequence
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
import trio

from backends.remote.echo import ask, failure, running, text
from backends.remote.fake_server import CLOSE, RESET, STALL, fake_server, head, response
from backends.remote.memory import Network
from illm.backends.remote import connection, probe
from illm.backends.remote.connection import UnreachableError
from illm.backends.remote.health import PERIOD, Health
from illm.backends.remote.pool import Pool
from illm.errors import GatewayError, Kind

OK = response(b"fine")


def pools(ref) -> Sequence[Pool]:
    return ref.served.make_actor()._board.pools


def made() -> tuple[Health, list[bool]]:
    seen: list[bool] = []
    health = Health(lambda: seen.append(health.up))
    return health, seen


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("probes", "up"),
    [
        ([(200, None)], True),
        ([(401, None)], True),  # another key for it, or none: it is there
        ([(404, None)], True),  # any OpenAI-style server may stand there
        ([(500, None)], False),
        ([(503, None)], False),
        ([(None, None)], False),
        ([(None, "connection refused")], False),
        ([(200, None), (503, None)], False),
        ([(503, None), (200, None)], True),
        ([(None, None), (None, None), (200, None)], True),
    ],
)
async def test_what_a_probe_says(probes, up):
    health, seen = made()
    for status, problem in probes:
        health.probed(status, problem)
    assert health.up is up
    assert health.known
    assert (health.problem is None) is up
    assert all(a is not b for a, b in pairwise(seen))


@pytest.mark.anyio
async def test_a_busy_server_that_answers_requests_is_not_down_because_a_probe_waited_too_long():
    health, seen = made()
    health.probed(200)
    health.heard()
    health.probed(None)
    assert health.up
    health.probed(None)
    assert not health.up
    assert seen == [True, False]


@pytest.mark.anyio
async def test_a_refused_connection_marks_it_down_at_once_whatever_was_heard():
    health, seen = made()
    health.probed(200)
    health.heard()
    health.refused("connection refused")
    assert (health.up, health.problem, seen) == (False, "connection refused", [True, False])
    assert health.disturbed.is_set()


@pytest.mark.anyio
async def test_pauses_grow_while_it_is_down():
    health, _ = made()
    pauses = []
    for _ in range(5):
        health.probed(None, "connection refused")
        pauses.append(health.pause)
    assert pauses == [1.0, 2.0, 4.0, PERIOD, PERIOD]
    health.probed(200)
    assert health.pause == PERIOD


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        [response(b"m1")],
        [response(b"m1", connection="close"), CLOSE],
        [head(), b"m1", CLOSE],
        [b"HTTP/1.0 200 OK\r\n\r\nm1", CLOSE],
    ],
)
async def test_models_are_listed_whether_or_not_the_probe_keeps_its_connection(script):
    with anyio.fail_after(10):
        async with fake_server([OK], probe=script) as server, running(server.url) as ref:
            assert (ref.state, list(ref.models)) == ("ready", ["m1"])
            assert ref.served.details()["models"] == ["m1"]
            await server.until(lambda: server.open == 0)
            assert server.probes == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    "models",
    [[response(b"m1", 401)], [response(b"m1", 500)], [RESET], [b"nonsense", CLOSE], [response(b"\xff\xfe")]],
)
async def test_a_server_without_a_list_of_models_is_up_all_the_same(models):
    def choose(seen):
        return [OK] if seen.target == "/health" else models

    with anyio.fail_after(10):
        async with fake_server([OK], probe=choose) as server, running(server.url) as ref:
            assert (ref.state, list(ref.models)) == ("ready", ["echo"])
            assert await text(ref) == "fine"


@pytest.mark.anyio
async def test_probes_carry_the_key():
    keys: list[str | None] = []

    def choose(seen):
        keys.append(seen.headers.get("authorization"))
        return [OK]

    with anyio.fail_after(10):
        async with fake_server(probe=choose) as server, running(server.url, key="k"):
            assert keys == ["Bearer k"] * 2


@pytest.mark.anyio
async def test_a_backend_that_is_not_there_refuses_at_once_and_says_when_to_come_back():
    with anyio.fail_after(10):
        async with running("http://127.0.0.1:1") as ref:
            assert ref.state == "down"
            with pytest.raises(GatewayError) as refused:
                ref.call(ask())
            assert (refused.value.kind, refused.value.retry_after) == (Kind.UNREACHABLE, 1)
            assert ref.served.details()["replicas"] == [
                {"state": "down", "connections": 0, "active": 0, "problem": "connection refused"}
            ]
            assert ref.problem is not None


@pytest.mark.anyio
async def test_traffic_that_finds_nobody_marks_it_down_and_it_comes_back_by_itself():
    with anyio.fail_after(20):
        async with fake_server([OK]) as server:
            port = int(server.url.rpartition(":")[2])
            async with running(server.url) as ref:
                assert await text(ref) == "fine"
                await server.stop()
                assert (await failure(ref)).kind is Kind.UNREACHABLE
                assert ref.state == "down"
                async with fake_server([response(b"again")], port=port) as second:
                    await second.until(lambda: second.probes > 0)
                    while ref.state == "down":
                        await anyio.lowlevel.checkpoint()
                    assert await text(ref) == "again"


@pytest.mark.anyio
async def test_those_who_wait_are_told_when_it_goes_down():
    with anyio.fail_after(10):
        scripts = [[OK], [STALL]]
        async with fake_server(lambda seen: scripts.pop(0)) as server, running(server.url, connections=1) as ref:
            await text(ref)
            with ref.call(ask()), ref.call(ask()) as waiting:
                await server.until(lambda: len(server.requests) == 2)
                assert ref.inbox.waiting == 1
                pools(ref)[0].health.refused("connection refused")
                (failed,) = await waiting.reply.take()
                assert failed.error.kind is Kind.UNREACHABLE


@pytest.mark.trio
async def test_when_probes_come(autojump_clock, monkeypatch):
    async def serve(stream) -> None:
        try:
            while True:
                await stream.receive()
                await stream.send(OK)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    async with anyio.create_task_group() as tasks:
        made = Network(tasks, serve)
        made.install(monkeypatch)
        async with running("http://there") as ref:
            await trio.sleep(12)
            assert [round(at - made.times[0]) for at in made.times] == [0, 5, 10]
            made.hangs = True
            await trio.sleep(40)
            assert ref.state == "down"
            pauses = [round(b - a) for a, b in pairwise(made.times[3:])]
            assert pauses == [6, 7, 9, 10][: len(pauses)]  # 5 s of patience each, and a growing pause
            made.hangs = False
            await trio.sleep(11)
            assert ref.state == "ready"
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_probe_that_fails_for_want_of_descriptors_says_nothing_about_the_server(monkeypatch):
    async def none_left(server, receiver):
        raise UnreachableError("no connection", ours=True)

    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            monkeypatch.setattr(connection, "connect", none_left)
            pool = pools(ref)[0]
            found = await probe._examine(pool, with_models=True)
            assert found.ours
            assert ref.state == "ready"
