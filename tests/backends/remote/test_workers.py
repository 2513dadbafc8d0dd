"""Workers: handing over, leaving in every phase, waiting for slow clients, ending with the actor."""

import anyio
import anyio.lowlevel
import pytest

from backends.remote.echo import answer, ask, failure, running, text
from backends.remote.fake_server import RESET, STALL, chunk, fake_server, head, response
from illm.actors.ref import Ref
from illm.backends.remote import workers as workers_module
from illm.core.events import Delta, Done, Event, Failed
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio

OK = response(b"fine")


async def first(call) -> list[Event]:
    events: list[Event] = await call.reply.take()
    return events


def active(ref: Ref) -> int:
    return sum(replica["active"] for replica in ref.served.details()["replicas"])


def connections(ref: Ref) -> int:
    return sum(replica["connections"] for replica in ref.served.details()["replicas"])


async def test_a_thousand_concurrent_requests_are_all_admitted():
    go = anyio.Event()
    answers: list[str] = []

    async def one(ref: Ref) -> None:
        answers.append(await text(ref))

    with anyio.fail_after(60):
        async with fake_server([go, OK]) as server, running(server.url) as ref:
            async with anyio.create_task_group() as tasks:
                for _ in range(1000):
                    tasks.start_soon(one, ref)
                await server.until(lambda: len(server.requests) == 1000)
                assert active(ref) == 1000
                go.set()
            assert answers == ["fine"] * 1000
            assert active(ref) == 0
            assert server.connections == 1000


async def test_the_worker_that_went_idle_last_goes_first():
    gates = {"a": anyio.Event(), "b": anyio.Event()}

    def choose(seen):
        gate = gates.get(seen.body.decode())
        return [gate, OK] if gate else [OK]

    with anyio.fail_after(10):
        async with fake_server(choose) as server, running(server.url) as ref:
            with ref.call(ask("a")) as a, ref.call(ask("b")) as b:
                await server.until(lambda: len(server.requests) == 2)
                gates["b"].set()
                await first(b)
                gates["a"].set()
                await first(a)
            where = {seen.body: seen.connection for seen in server.requests}
            assert [await text(ref, "c") for _ in range(3)] == ["fine"] * 3
            assert {seen.connection for seen in server.requests[2:]} == {where[b"a"]}
            assert connections(ref) == 2


async def test_beyond_the_connections_calls_wait_and_beyond_the_mailbox_they_are_refused():
    go = anyio.Event()
    with anyio.fail_after(10):
        async with fake_server([go, OK]) as server, running(server.url, connections=2, mailbox=2) as ref:
            calls = [ref.call(ask(str(at))) for at in range(4)]
            assert ref.inbox.waiting == 2
            with pytest.raises(GatewayError) as refused:
                ref.call(ask())
            assert refused.value.kind is Kind.OVERLOADED
            calls[2].leave()  # one that left does not count, and its place is free
            calls.append(ref.call(ask("4")))
            go.set()
            for call in (calls[0], calls[1], calls[3], calls[4]):
                assert isinstance((await first(call))[-1], Done)
                call.leave()
            assert sorted(seen.body for seen in server.requests) == [b"0", b"1", b"3", b"4"]
            assert server.connections == 2


async def test_a_place_that_a_leaving_client_frees_goes_to_one_who_waits():
    with anyio.fail_after(10):
        scripts = {b"stall": [STALL], b"next": [OK]}
        async with fake_server(lambda seen: scripts[seen.body]) as server, running(server.url, connections=1) as ref:
            with ref.call(ask("stall")), ref.call(ask("next")) as waiting:
                assert ref.inbox.waiting == 1
                await server.until(lambda: len(server.requests) == 1)
                leaving = next(call for call in ref.inbox.active)
                leaving.leave()
                assert isinstance((await first(waiting))[-1], Done)


PHASES = {
    "first byte": [STALL],
    "head": [b"HTTP/1.1 200 OK\r\n", STALL],
    "body": [head(length=9), b"part", STALL],
    "stream": [head(chunked=True), chunk(b"part"), STALL],
    "last chunk": [head(chunked=True) + chunk(b"part") + chunk(b"")[:3], STALL],
}


@pytest.mark.parametrize("phase", PHASES)
async def test_leaving_closes_the_connection_at_once(phase):
    script = PHASES[phase]
    whole = sum(len(step) for step in script if isinstance(step, bytes))
    with anyio.fail_after(10):
        scripts = {b"leave": script, b"stay": [OK]}
        async with fake_server(lambda seen: scripts[seen.body]) as server, running(server.url) as ref:
            await server.until(lambda: server.open == 0)  # the probe's is gone
            left, sent = server.left, server.sent
            with ref.call(ask("leave")):
                await server.until(lambda: len(server.requests) == 1 and server.sent == sent + whole)
            await server.until(lambda: server.left == left + 1)
            assert not ref.inbox.active
            assert await text(ref, "stay") == "fine"


async def test_leaving_after_some_of_a_stream():
    with anyio.fail_after(10):
        async with fake_server(PHASES["stream"]) as server, running(server.url) as ref:
            await server.until(lambda: server.open == 0)
            left = server.left
            with ref.call(ask()) as call:
                assert await first(call) == [Delta(0, "part")]
            await server.until(lambda: server.left == left + 1)


async def test_leaving_while_connecting(monkeypatch):
    trying, stopped = anyio.Event(), anyio.Event()

    async def never(server, receiver):
        trying.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            monkeypatch.setattr(workers_module, "connect", never)
            with ref.call(ask()):
                await trying.wait()
            await stopped.wait()
            assert not server.requests
            assert not ref.inbox.active


async def test_leaving_while_writing():
    # More than both kernels buffer, to a server that reads only the head.
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    reading, gone = anyio.Event(), anyio.Event()

    async def reluctant(stream):
        async with stream:
            data = await stream.receive()
            if data.startswith(b"GET"):
                await stream.send(response(b""))
                return
            reading.set()
            await anyio.lowlevel.checkpoint()
            while True:
                try:
                    data = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    gone.set()
                    return
                await wait_for_leaving.wait()

    wait_for_leaving = anyio.Event()
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(20):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, reluctant)
            async with running(f"http://127.0.0.1:{port}") as ref:
                with ref.call(ask("x" * 50_000_000)):
                    await reading.wait()
                wait_for_leaving.set()
                await gone.wait()
                assert not ref.inbox.active
            tasks.cancel_scope.cancel()


async def test_leaving_at_once_closes_the_connection_that_the_request_is_on():
    with anyio.fail_after(10):
        scripts = {b"hello": [OK], b"gone": [STALL]}
        async with fake_server(lambda seen: scripts[seen.body]) as server, running(server.url) as ref:
            assert await text(ref) == "fine"
            left = server.left
            ref.call(ask("gone")).leave()
            assert not ref.inbox.active
            assert connections(ref) == 0
            await server.until(lambda: server.left == left + 1)
            assert await text(ref) == "fine"
            first, _, last = server.requests
            assert first.connection != last.connection


async def test_leaving_at_once_on_a_new_connection_asks_for_nothing():
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            ref.call(ask("gone")).leave()
            assert not ref.inbox.active
            assert await text(ref) == "fine"
            assert [seen.body for seen in server.requests] == [b"hello"]


async def test_leaving_after_the_end_keeps_the_connection():
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            for _ in range(3):
                with ref.call(ask()) as call:
                    assert isinstance((await first(call))[-1], Done)
            assert server.connections == 1


async def test_one_client_that_leaves_hurts_no_neighbour():
    go = anyio.Event()
    with anyio.fail_after(10):
        stream = [head(chunked=True), chunk(b"a"), go, chunk(b"b"), chunk(b"")]
        async with fake_server(stream) as server, running(server.url) as ref:
            with ref.call(ask()) as stays:
                for _ in range(20):
                    with ref.call(ask()) as leaves:
                        await first(leaves)
                go.set()
                events = await first(stays)
                while not isinstance(events[-1], Done):
                    events += await first(stays)
            assert "".join(event.text for event in events if isinstance(event, Delta)) == "ab"


async def test_a_client_that_does_not_read_stops_the_upstream_being_read():
    body = b"x" * 64_000_000
    with anyio.fail_after(60):
        async with fake_server([head(length=len(body)) + body]) as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                await first(call)
                stuck, steady = server.sent, 0
                while steady < 20:  # nothing moves any more, though everybody had a turn
                    await anyio.wait_all_tasks_blocked()
                    steady = steady + 1 if server.sent == stuck else 0
                    stuck = server.sent
                assert stuck < len(body) - 10_000_000
                size = 0
                while True:
                    events = await first(call)
                    size += sum(len(event.text) for event in events if isinstance(event, Delta))
                    if isinstance(events[-1], Done):
                        break
                assert size > stuck - 10_000_000


async def test_requests_that_the_dialect_refuses_cost_no_connection():
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            error = await failure(ref, "refuse")
            assert (error.kind, error.param) == (Kind.UNSUPPORTED_PARAMETER, "prompt")
            assert connections(ref) == 0


async def test_a_fault_of_ours_is_one_requests_affair(caplog):
    with anyio.fail_after(10):
        async with fake_server(lambda seen: [response(seen.body)]) as server, running(server.url) as ref:
            assert (await failure(ref, "what?")).kind is Kind.INTERNAL
            assert "ZeroDivisionError" in caplog.text
            assert await text(ref, "fine") == "fine"
            assert ref.state == "ready"


async def test_an_actor_that_ends_answers_everybody():
    with anyio.fail_after(10):
        async with fake_server([STALL]) as server:
            async with running(server.url, connections=1) as ref:
                begun, waiting = ref.call(ask()), ref.call(ask())
                await server.until(lambda: len(server.requests) == 1)
            with pytest.raises(anyio.EndOfStream):
                await first(begun)
            assert isinstance((await first(waiting))[-1], Failed)
            await server.until(lambda: server.open == 0)


async def test_a_body_that_the_server_refuses_unread_is_still_answered():
    with anyio.fail_after(20):
        async with fake_server([response(b"too large", 400, connection="close")]) as server, running(server.url) as ref:
            assert (await failure(ref, "x" * 5_000_000)).kind is Kind.INVALID_REQUEST


async def test_a_reset_in_a_stream_is_told_after_what_was_said():
    with anyio.fail_after(10):
        go = anyio.Event()
        async with fake_server([head(chunked=True), chunk(b"said"), go, RESET]) as server, running(server.url) as ref:
            with ref.call(ask()) as call:
                assert await first(call) == [Delta(0, "said")]
                go.set()
                (failed,) = await first(call)
            assert isinstance(failed, Failed)
            assert failed.error.kind is Kind.UPSTREAM


async def test_answers_do_not_cross():
    with anyio.fail_after(20):
        async with fake_server(lambda seen: [response(seen.body)]) as server, running(server.url, connections=4) as ref:

            async def one(name: str) -> None:
                for turn in range(10):
                    assert await text(ref, f"{name}{turn}") == f"{name}{turn}"
                    with ref.call(ask("left")) as call:
                        if turn % 2:
                            await first(call)

            async with anyio.create_task_group() as tasks:
                for at in range(20):
                    tasks.start_soon(one, f"{at}-")
            assert not ref.inbox.active
            assert await answer(ref)
