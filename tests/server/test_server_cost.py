"""What a request may cost: counted, not timed, so that what was won does not creep back."""

import sys
from collections import Counter
from contextlib import contextmanager

import anyio
import pytest
from driving import bench, echo, idle, post

from illm.server import Limits
from illm.server.connection import Connection
from illm.server.serving import Server

pytestmark = pytest.mark.anyio

BODY = b"x" * 250
ANSWER = b"y" * 400


class Wire:
    """A wire whose other side takes everything at once."""

    socket = None
    unsent = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.owner = None

    def write(self, data: bytes) -> bool:
        self.writes.append(data)
        return True

    def pause(self) -> None:
        raise AssertionError("nothing was too much")

    def resume(self) -> None:
        raise AssertionError("nothing was paused")

    def end(self) -> None:
        pass

    def close(self) -> None:
        self.owner.closed()

    def abort(self, *, reset: bool = False) -> None:
        pass


@contextmanager
def counted():
    """Count the calls of our functions, and the times their coroutines are gone on with."""
    calls: Counter[str] = Counter()

    def note(frame, event, arg) -> None:
        if event == "call" and "/illm/" in frame.f_code.co_filename:
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def cost(app, requests: list[bytes]) -> tuple[Counter[str], list[bytes]]:
    """Serve `requests` in a row on one connection; return what the last one cost: calls and writes."""
    async with anyio.create_task_group() as tasks:
        server = Server(app, Limits(), "", {})
        wire = Wire()
        wire.owner = server.owner(server.service(tasks))
        wire.owner.opened(wire)
        await idle()
        for request in requests:
            wire.writes.clear()
            with counted() as calls:
                wire.owner.received(request)
                await idle()
        wire.owner.ended(False)
    return calls, list(wire.writes)


async def whole(scope, receive, send):
    message = await receive()
    assert message == {"type": "http.request", "body": BODY, "more_body": False}
    headers = [(b"content-type", b"application/json"), (b"content-length", b"400")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def streamed(pieces: int):
    async def app(scope, receive, send):
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(pieces):
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def test_a_request_that_comes_in_one_read():
    calls, writes = await cost(whole, [post(BODY, b"A: b")] * 3)
    assert len(writes) == 1
    assert writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert writes[0].endswith(b"\r\n\r\n" + ANSWER)
    # The task is woken once, and then waits for the next request: no other wait, and nobody else is woken.
    assert calls["Wake.wait"] == 2
    assert calls["Connection._converse"] == 1
    # Its head was checked when it came first, and its fields when they first went out.
    assert calls["check_head"] == 0
    assert calls["ResponseEncoder._field"] == 1  # of the length
    assert sum(calls.values()) <= 40, calls


async def test_a_head_with_many_fields_costs_no_more():
    fields = [b"X-Field-%d: %d" % (i, i) for i in range(20)]
    few, _ = await cost(whole, [post(BODY, b"A: b")] * 3)
    many, _ = await cost(whole, [post(BODY, *fields)] * 3)
    assert many == few


async def test_a_request_that_is_the_first_of_its_kind():
    calls, writes = await cost(whole, [post(BODY, b"A: b")])
    assert len(writes) == 1
    assert calls["check_head"] == 1
    assert sum(calls.values()) <= 60, calls


async def test_a_streamed_piece_is_one_write_and_few_calls():
    few, before = await cost(streamed(10), [post(BODY)] * 2)
    many, after = await cost(streamed(110), [post(BODY)] * 2)
    assert (len(before), len(after)) == (11, 111)  # the head goes with the first
    assert many["Wake.wait"] == few["Wake.wait"] == 2
    assert sum(many.values()) - sum(few.values()) <= 3 * 100


async def test_no_piece_of_a_large_body_is_copied_more_than_once():
    cuts = []

    class Body(bytes):
        def __getitem__(self, key):
            piece = super().__getitem__(key)
            cuts.append(len(piece))
            return piece

    class Taker:
        def write(self, data):
            return True

    async with bench(echo, Limits(write_bytes=10_000)) as server:
        connection = Connection(server.service, print)
        connection._wire = Taker()
        connection._later = Body(b"x" * 500_000)
        connection._write_on()
        assert not connection._later
    assert cuts == [10_000] * 50
