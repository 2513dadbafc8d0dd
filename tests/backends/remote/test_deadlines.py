"""Deadlines: each passes when it should, says what it was, and closes the connection."""

import anyio
import pytest
import trio.testing

from backends.remote.echo import answer, ask, failure, running, text
from backends.remote.fake_server import STALL, chunk, fake_server, head, response
from backends.remote.memory import Network
from illm.backends.remote.deadlines import Deadline, Phase, Timeouts
from illm.core.events import Delta, Failed
from illm.errors import Kind

CASES = {
    "first byte": ("first_byte", [STALL], Kind.TIMEOUT, "did not begin"),
    "silent after the head": ("first_byte", [head(length=9), STALL], Kind.TIMEOUT, "did not begin"),
    "silent in the body": ("idle", [head(chunked=True), chunk(b"said"), STALL], Kind.TIMEOUT, "fell silent"),
    "whole": ("total", [head(chunked=True), chunk(b"said"), STALL], Kind.TIMEOUT, "did not finish"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", CASES)
async def test_each_deadline_has_its_own_error_and_closes_the_connection(name):
    option, script, kind, words = CASES[name]
    scripts = {b"slow": script, b"fast": [response(b"fine")]}
    with anyio.fail_after(10):
        timeouts = Timeouts(**{option: 0.05})
        serving = fake_server(lambda seen: scripts[seen.body])
        async with serving as server, running(server.url, timeouts=timeouts) as ref:
            await server.until(lambda: server.open == 0)
            left = server.left
            error = await failure(ref, "slow")
            assert error.kind is kind
            assert words in error.message
            await server.until(lambda: server.left == left + 1)
            assert await text(ref, "fast") == "fine"


@pytest.mark.anyio
async def test_bytes_move_the_idle_deadline_along():
    body = [chunk(b"%d " % at) for at in range(40)]
    with anyio.fail_after(10):
        serving = fake_server([head(chunked=True), *body, chunk(b"")])
        async with serving as server, running(server.url, timeouts=Timeouts(idle=0.5)) as ref:
            assert (await text(ref)).split() == [str(at) for at in range(40)]


def test_a_deadline_starts_where_it_was_first_looked_at_and_moves_with_the_bytes():
    timeouts, deadline = Timeouts(connect=5, first_byte=60, idle=10, total=100, rest=4), Deadline()
    deadline.begin(Phase.CONNECT)
    assert deadline.passed(0, timeouts) is None
    assert deadline.passed(4.4, timeouts) is None
    assert deadline.passed(5, timeouts) is Phase.CONNECT
    deadline.enter(Phase.FIRST_BYTE)
    assert deadline.passed(4.5, timeouts) is None
    assert deadline.passed(64.4, timeouts) is None
    assert deadline.passed(64.5, timeouts) is Phase.FIRST_BYTE
    deadline.enter(Phase.BYTES)
    assert deadline.passed(70, timeouts) is None
    deadline.enter(Phase.BYTES)
    assert deadline.passed(79, timeouts) is None
    assert deadline.passed(88, timeouts) is None
    assert deadline.passed(89, timeouts) is Phase.BYTES
    deadline.enter(Phase.CLIENT)
    assert deadline.passed(99, timeouts) is None
    assert deadline.passed(100, timeouts) is Phase.WHOLE
    deadline.begin(Phase.REST)
    assert deadline.passed(200, timeouts) is None
    assert deadline.passed(204, timeouts) is Phase.REST


def test_a_tick_is_a_fraction_of_the_shortest_deadline():
    assert Timeouts().tick == 0.2
    assert Timeouts(connect=0.1).tick == pytest.approx(0.005)


# The clock jumps over waiting: the real limits, exactly, in no time.

WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nm"


def network(tasks: trio.Nursery, script: list[bytes | float], monkeypatch: pytest.MonkeyPatch) -> Network:
    async def serve(stream) -> None:
        try:
            while True:
                request = await stream.receive()
                for step in [WELL] if request.startswith(b"GET") else script:
                    if isinstance(step, bytes):
                        await stream.send(step)
                    else:
                        await anyio.sleep(step)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    made = Network(tasks, serve)  # type: ignore[arg-type]
    made.install(monkeypatch)
    return made


@pytest.mark.trio
@pytest.mark.parametrize(
    ("script", "limit", "words"),
    [
        ([7000.0], 600, "did not begin"),
        ([head(length=9), 7000.0], 600, "did not begin"),
        # vLLM sends its head at once: a long prefill behind it is still the wait for the first token.
        ([head(chunked=True), 300.0, chunk(b"x"), 7000.0], 420, "fell silent"),
        ([head(chunked=True), *[100.0, chunk(b"x")] * 99], 3600, "did not finish"),
    ],
)
async def test_the_limits_as_they_are_by_default(script, limit, words, autojump_clock, monkeypatch):
    async with anyio.create_task_group() as tasks:
        network(tasks, script, monkeypatch)  # type: ignore[arg-type]
        async with running("http://there") as ref:
            began = trio.current_time()
            error = await failure(ref)
            assert limit <= trio.current_time() - began < limit + 1
            assert words in error.message
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_connecting_has_a_limit_and_marks_the_server_down(autojump_clock, monkeypatch):
    async with anyio.create_task_group() as tasks:
        made = network(tasks, [WELL], monkeypatch)  # type: ignore[arg-type]
        async with running("http://there") as ref:
            made.hangs = True
            began = trio.current_time()
            error = await failure(ref)
            assert 4.9 <= trio.current_time() - began < 6
            assert (error.kind, "no connection in time" in error.message) == (Kind.UNREACHABLE, True)
            assert ref.state == "down"
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_writing_to_a_server_that_does_not_read_counts_as_waiting_for_its_answer(autojump_clock, monkeypatch):
    async with anyio.create_task_group() as tasks:
        made = network(tasks, [], monkeypatch)
        async with running("http://there") as ref:
            made._serve = lambda stream: anyio.sleep_forever()  # type: ignore[assignment, return-value]
            error = await failure(ref)
            assert "did not begin" in error.message
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_slow_client_is_not_the_servers_silence(autojump_clock, monkeypatch):
    stream = [head(chunked=True), *[0.1, chunk(b"x")] * 200, chunk(b"")]
    async with anyio.create_task_group() as tasks:
        network(tasks, stream, monkeypatch)  # type: ignore[arg-type]
        async with running("http://there") as ref:
            with ref.call(ask()) as call:
                assert await call.reply.take() == [Delta(0, "x")]
                await anyio.sleep(1000)
                events = await call.reply.take()
                assert not isinstance(events[-1], Failed)
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_an_idle_connection_is_given_up_before_the_server_does(autojump_clock, monkeypatch):
    async with anyio.create_task_group() as tasks:
        made = network(tasks, [WELL], monkeypatch)  # type: ignore[arg-type]
        async with running("http://there") as ref:
            await text(ref)
            connections = ref.served.details
            await anyio.sleep(3.9)
            assert connections()["replicas"][0]["connections"] == 1
            await anyio.sleep(0.5)
            assert connections()["replicas"][0]["connections"] == 0
            opened = made.opened
            assert await text(ref) == "m"
            await anyio.sleep(3.5)
            assert await text(ref) == "m"  # used again in time: kept
            assert made.opened <= opened + 2  # ours, and perhaps a probe's
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_call_that_comes_as_the_worker_gives_up_is_not_lost(autojump_clock, monkeypatch):
    async with anyio.create_task_group() as tasks:
        network(tasks, [WELL], monkeypatch)  # type: ignore[arg-type]
        async with running("http://there", timeouts=Timeouts(rest=4.0)) as ref:
            for hundredths in range(380, 440, 2):
                await text(ref)
                await anyio.sleep(hundredths / 100)
                assert await answer(ref)
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_waiting_in_the_mailbox_has_the_limit_of_the_first_byte(autojump_clock, monkeypatch):
    stream = [head(chunked=True), *[100.0, chunk(b"x")] * 99]
    async with anyio.create_task_group() as tasks:
        network(tasks, stream, monkeypatch)  # type: ignore[arg-type]
        async with running("http://there", connections=1) as ref:
            began = trio.current_time()
            with ref.call(ask()) as first:
                error = await failure(ref)
                assert 600 <= trio.current_time() - began < 601
                assert (error.kind, "did not begin" in error.message) == (Kind.TIMEOUT, True)
                assert (ref.inbox.waiting, ref.inbox.active) == (0, {first})
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_time_in_the_mailbox_counts_towards_the_first_byte(autojump_clock, monkeypatch):
    scripts = iter([[500.0, WELL], [7000.0]])

    async def serve(stream) -> None:
        try:
            while True:
                request = await stream.receive()
                for step in [WELL] if request.startswith(b"GET") else next(scripts):
                    await (stream.send(step) if isinstance(step, bytes) else anyio.sleep(step))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    async with anyio.create_task_group() as tasks:
        Network(tasks, serve).install(monkeypatch)
        async with running("http://there", connections=1) as ref:
            began = trio.current_time()
            with ref.call(ask()):
                error = await failure(ref)
            assert 604 < trio.current_time() - began < 606
            assert "did not begin" in error.message
        tasks.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_second_replica_does_not_get_the_whole_time_again(autojump_clock, monkeypatch):
    async def serve(stream) -> None:
        try:
            while True:
                request = await stream.receive()
                if request.startswith(b"GET"):
                    await stream.send(WELL)
                    continue
                asked.append(1)
                await anyio.sleep(500)
                if len(asked) == 1:
                    return
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass

    asked: list[int] = []
    async with anyio.create_task_group() as tasks:
        Network(tasks, serve).install(monkeypatch)
        async with running("http://here", "http://there") as ref:
            began = trio.current_time()
            error = await failure(ref)
            assert len(asked) == 2
            assert 604 < trio.current_time() - began < 606
            assert error.kind is Kind.TIMEOUT
        tasks.cancel_scope.cancel()
