"""Recorded answers over real sockets that cut them up, hold them back, break off, and will not hang up."""

import anyio
import orjson
import pytest

from backends.remote.fake_server import CLOSE, RESET, STALL
from backends.remote.recordings import events, read
from backends.remote.replay_faults import KINDS, begins, check_broken, edges
from backends.remote.replay_gateway import replay_gateway
from backends.remote.replay_server import Reads
from illm.backends.remote.connection import Connection
from illm.backends.remote.workers import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.exhaustive]

STREAMS = [name for name in KINDS if read(*name).streamed]
LOST = (502, "bad_upstream")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Watch what the gateway reads."""
    made = Reads()
    for receiver in (Connection, Worker):
        monkeypatch.setattr(receiver, "received", noting(made, receiver.received))
    return made


def noting(reads, received):
    def watched(self, data):
        received(self, data)
        reads.note(data)

    return watched


def text_of(choice):
    return choice.get("text") or (choice.get("delta") or {}).get("content")


async def whole(gateway, exchange):
    """Return the answer when nothing happens on the way."""
    gateway.upstream.play(exchange)
    answer = await gateway.ask(exchange.sent)
    assert answer.complete
    return answer


@pytest.mark.parametrize("every", ["edge", "byte"])
@pytest.mark.parametrize(("server", "case"), KINDS)
async def test_every_piece_is_read_by_itself_and_the_answer_is_the_same(server, case, every, reads):
    exchange = read(server, case)
    cuts = edges(exchange.wire) if every == "edge" else range(1, min(len(exchange.wire), 1500))
    async with replay_gateway(server) as gateway:
        expected = await whole(gateway, exchange)
        gateway.upstream.play(exchange, reads.cut(exchange.wire, cuts))
        answer = await gateway.ask(exchange.sent)
        assert reads.sizes == [b - a for a, b in zip([0, *cuts], [*cuts, len(exchange.wire)], strict=True)]
    assert (answer.status, answer.body, answer.complete) == (expected.status, expected.body, True)


@pytest.mark.parametrize(("server", "case"), STREAMS)
async def test_what_has_come_is_passed_on_while_the_rest_is_held_back(server, case):
    exchange, held = read(server, case), anyio.Event()
    first = next(text for chunk in events(exchange.body) if (text := text_of(chunk["choices"][0])))
    end = exchange.wire.index(b"\n\n", exchange.wire.index(orjson.dumps(first))) + 2
    async with replay_gateway(server) as gateway:
        expected = await whole(gateway, exchange)
        gateway.upstream.play(exchange, [exchange.wire[:end], held, exchange.wire[end:], CLOSE])
        async with gateway.asking(exchange.sent) as asking:
            await asking.until(orjson.dumps(first))
            assert b"[DONE]" not in asking.received
            held.set()
            answer = await asking.answer()
    assert answer.body == expected.body


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize(("server", "case"), KINDS)
async def test_breaking_off_is_an_error_and_harms_nobody_else(server, case, end, reads):
    exchange = read(server, case)
    wire = exchange.wire
    head, first = wire.index(b"\r\n\r\n") + 4, begins(exchange)
    lengths = {0, 1, head - 1, head, head + 1, first - 1, first, (first + len(wire)) // 2, len(wire) - 1} - {len(wire)}
    async with replay_gateway(server) as gateway:
        expected = await whole(gateway, exchange)
        for length in sorted(lengths):
            gateway.upstream.play(exchange, reads.cut(wire[:length], (), end))
            answer = await gateway.ask(exchange.sent)
            assert answer.complete
            check_broken(exchange, length, answer.status, answer.body, expected.body, LOST)
            assert (len(gateway.upstream.server.requests), gateway.connections) == (1, 0)
        assert (await whole(gateway, exchange)).body == expected.body


@pytest.mark.parametrize("end", [STALL, RESET])
@pytest.mark.parametrize(("server", "case"), KINDS)
async def test_a_whole_answer_counts_however_the_connection_ends(server, case, end, reads):
    """The gateway hangs up by itself on a server that said it would close and does not."""
    exchange = read(server, case)
    async with replay_gateway(server) as gateway:
        expected = await whole(gateway, exchange)
        fake = gateway.upstream.server
        gateway.upstream.play(exchange, reads.cut(exchange.wire, (), end))
        answer = await gateway.ask(exchange.sent)
        assert gateway.connections == 0
        await fake.until(lambda: fake.open == 0)
    assert (answer.status, answer.body, answer.complete) == (expected.status, expected.body, True)


@pytest.mark.parametrize(("server", "case"), KINDS)
async def test_leaving_in_the_middle_hangs_up_on_the_server(server, case, reads):
    exchange = read(server, case)
    async with replay_gateway(server) as gateway:
        fake = gateway.upstream.server
        gateway.upstream.play(exchange, reads.cut(exchange.wire[:-1], (), STALL))
        await reads.begin()
        async with gateway.asking(exchange.sent) as asking:
            await reads.until(len(exchange.wire) - 1)
            if exchange.streamed:
                await asking.until(b"data: ")
            assert fake.open == 1
        await fake.until(lambda: fake.open == 0)
