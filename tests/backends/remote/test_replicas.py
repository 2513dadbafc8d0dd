"""Several servers for one backend: the less busy of two, and another one for what failed before it began."""

from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest

from backends.remote.echo import answer, ask, failure, running, text
from backends.remote.fake_server import CLOSE, RESET, STALL, chunk, fake_server, head, response
from illm.backends.remote.replicas import pick
from illm.core.events import Delta, Failed
from illm.errors import Kind

OK = response(b"fine")


@dataclass(frozen=True)
class Replica:
    busy: int
    available: bool = True


def test_the_less_busy_of_two_random_ones():
    a, b, c = Replica(3), Replica(1), Replica(0)
    assert pick([a, b, c], sample=lambda able, k: able[:k]) is b
    assert pick([a, b, c], sample=lambda able, k: able[-k:]) is c
    assert pick([a, b]) is b
    assert pick([a]) is a


def test_those_that_cannot_are_not_asked():
    a, b, down = Replica(3), Replica(1), Replica(0, available=False)
    for _ in range(20):
        assert pick([a, b, down]) is b
        assert pick([a, b, down], avoid=b) is a
    assert pick([down]) is None
    assert pick([a], avoid=a) is None
    assert pick([]) is None


def test_many_draws_spread():
    loads = dict.fromkeys(range(5), 0)
    for _ in range(5000):
        chosen = pick([Replica((busy << 8) + number) for number, busy in loads.items()])
        assert chosen is not None
        loads[chosen.busy & 0xFF] += 1
    assert max(loads.values()) - min(loads.values()) <= 5


@pytest.mark.anyio
async def test_load_is_spread():
    go = anyio.Event()
    with anyio.fail_after(20):
        async with (
            fake_server([go, OK]) as a,
            fake_server([go, OK]) as b,
            running(a.url, b.url) as ref,
            anyio.create_task_group() as tasks,
        ):
            while {replica["state"] for replica in ref.served.details()["replicas"]} != {"ready"}:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                tasks.start_soon(text, ref)
            await a.until(lambda: len(a.requests) == 10)
            await b.until(lambda: len(b.requests) == 10)
            go.set()


BAD = {
    "closed": [CLOSE],
    "reset": [RESET],
    "nonsense": [b"nonsense", CLOSE],
    "no head": [b"HTTP/1.1 200 OK\r\n", CLOSE],
    "head only": [head(length=9), CLOSE],
    "500": [response(b"", 500)],
    "429": [response(b"", 429)],
    "nonsense of its own kind": [response(b"!")],
}


async def both_up(ref):
    while {replica["state"] for replica in ref.served.details()["replicas"]} != {"ready"}:
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
@pytest.mark.parametrize("name", BAD)
async def test_what_fails_before_it_began_is_answered_by_another(name):
    with anyio.fail_after(20):
        async with fake_server(BAD[name]) as bad, fake_server([OK]) as good, running(bad.url, good.url) as ref:
            await both_up(ref)
            while not bad.requests:
                assert await text(ref) == "fine"
            assert ref.inbox.active == set()


@pytest.mark.anyio
@pytest.mark.parametrize("name", BAD)
async def test_only_one_other_is_tried(name):
    with anyio.fail_after(20):
        async with (
            fake_server(BAD[name]) as a,
            fake_server(BAD[name]) as b,
            fake_server(BAD[name]) as c,
            running(a.url, b.url, c.url) as ref,
        ):
            await both_up(ref)
            assert (await failure(ref)).kind in (Kind.UPSTREAM, Kind.OVERLOADED)
            assert len(a.requests + b.requests + c.requests) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        pytest.param([head(chunked=True) + chunk(b"said"), CLOSE], id="after the first event"),
        pytest.param([response(b"", 400)], id="a refusal of the request itself"),
        pytest.param([response(b"?")], id="a fault of ours"),
    ],
)
async def test_what_another_is_not_tried_for(script):
    with anyio.fail_after(20):
        async with fake_server(script) as a, fake_server(script) as b, running(a.url, b.url) as ref:
            await both_up(ref)
            events = await answer(ref)
            assert isinstance(events[-1], Failed)
            assert [event.text for event in events[:-1] if isinstance(event, Delta)] in ([], ["said"])
            assert len(a.requests + b.requests) == 1


@pytest.mark.anyio
async def test_a_server_that_is_gone_costs_one_connection_attempt_and_no_request():
    with anyio.fail_after(20):
        async with fake_server([OK]) as a, fake_server([OK]) as b, running(a.url, b.url) as ref:
            await both_up(ref)
            await a.stop()
            assert [await text(ref) for _ in range(20)] == ["fine"] * 20
            assert [replica["state"] for replica in ref.served.details()["replicas"]] == ["down", "ready"]
            assert ref.state == "ready"
            await b.stop()
            assert (await failure(ref)).kind is Kind.UNREACHABLE
            assert ref.state == "down"


@pytest.mark.anyio
async def test_leaving_while_the_second_one_works_closes_its_connection():
    with anyio.fail_after(20):
        async with fake_server([CLOSE]) as bad, fake_server([STALL]) as good, running(bad.url, good.url) as ref:
            await both_up(ref)
            left = good.left
            while not bad.requests:
                before = len(good.requests)
                with ref.call(ask()):
                    await good.until(lambda before=before: len(good.requests) > before)
            await good.until(lambda: good.open == 0)
            assert good.left > left
            assert not ref.inbox.active


@pytest.mark.anyio
async def test_models_of_all_replicas_are_listed_once():
    with anyio.fail_after(10):
        async with (
            fake_server(probe=[response(b"m1 m2")]) as a,
            fake_server(probe=[response(b"m2 m3")]) as b,
            running(a.url, b.url) as ref,
        ):
            await both_up(ref)
            assert list(ref.models) == ["m1", "m2", "m3"]
