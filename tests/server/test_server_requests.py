"""Requests and responses on one connection."""

import logging

import anyio
import h11
import pytest
from driving import GET, Client, bench, echo, idle, post, read_body, reply

from illm.server import Limits

pytestmark = pytest.mark.anyio


async def test_a_connection_serves_many_requests():
    async with bench(echo) as server:
        client = server.connect()
        for i in range(3):
            await client.send(post(b"%d" % i))
            assert (await client.answer()).body == b"POST / %d" % i
        assert len(server.wires) == 1


async def test_pipelined_requests_are_answered_in_order():
    async with bench(echo) as server:
        client = server.connect()
        wire = post(b"a") + GET + post(b"b" * 5000) + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await client.send(wire)
        answers = [(await client.answer()).body for _ in range(4)]
        assert answers == [b"POST / a", b"GET / ", b"POST / " + b"b" * 5000, b"GET /last "]
        assert await client.to_end() == b""


async def test_the_reader_stops_where_pipelined_bytes_are_too_many():
    release = anyio.Event()

    async def app(scope, receive, send):
        await release.wait()
        await reply(send)

    async with bench(app, Limits(pipeline_buffer=100)) as server:
        client = server.connect()
        for _ in range(20):
            await client.send(GET)
            await idle(2)
        assert len(server.wires[0].incoming.data) > 300  # left in the socket's buffer
        release.set()
        for _ in range(20):
            assert (await client.answer()).status == 200


async def test_a_body_in_chunks_and_a_response_in_chunks():
    async def app(scope, receive, send):
        body = await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for byte in body:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await idle(2)  # or else the pieces may go out together
        await send({"type": "http.response.body"})

    async with bench(app) as server:
        client = server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.send(b"2\r\nde\r\n0\r\n\r\n")
        answer = await client.answer()
        assert answer.body == b"abcde"
        assert answer.headers[b"transfer-encoding"] == b"chunked"
        # The head with the first piece, then one write a piece.
        assert len(server.wires[0].writes) == 6


async def test_the_body_arrives_while_it_is_sent():
    got = []
    stepped = anyio.Event()

    async def app(scope, receive, send):
        got.append(await receive())
        stepped.set()
        got.append(await receive())
        await reply(send)

    async with bench(app) as server:
        client = server.connect()
        wire = post(b"abcdef")
        await client.send(wire[:-3])
        await stepped.wait()
        await client.send(wire[-3:])
        assert (await client.answer()).status == 200
        assert got == [
            {"type": "http.request", "body": b"abc", "more_body": True},
            {"type": "http.request", "body": b"def", "more_body": False},
        ]


async def test_a_body_that_nobody_takes_stays_in_the_socket():
    release = anyio.Event()

    async def app(scope, receive, send):
        await release.wait()
        await reply(send, b"%d" % len(await read_body(receive)))

    async with bench(app, Limits(body_buffer=65536)) as server:
        client = server.connect()
        await client.send(post(b"x" * 500_000))
        await idle()
        assert len(server.wires[0].incoming.data) > 300_000
        release.set()
        assert (await client.answer()).body == b"500000"


async def test_continue_is_sent_when_the_body_is_asked_for():
    async with bench(echo) as server:
        client = server.connect()
        head, body = post(b"abc", b"Expect: 100-continue")[:-3], b"abc"
        await client.send(head)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        answer = await client.answer()
        assert (answer.body, answer.informational) == (b"POST / abc", [])
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_no_continue_when_the_body_is_here_already():
    async with bench(echo) as server:
        client = server.connect()
        await client.send(post(b"abc", b"Expect: 100-continue"))
        answer = await client.answer()
        assert (answer.body, answer.informational) == (b"POST / abc", [])


async def test_no_continue_after_the_response_began_and_then_the_connection_ends():
    async def app(scope, receive, send):
        await reply(send, status=403)
        assert (await receive())["type"] == "http.disconnect"

    async with bench(app) as server:
        client = server.connect()
        await client.send(post(b"abc", b"Expect: 100-continue")[:-3])
        answer = await client.answer()
        assert (answer.status, answer.informational) == (403, [])
        assert answer.headers[b"connection"] == b"close"
        assert await client.to_end() == b""


async def test_a_large_body_is_refused_before_it_is_sent():
    async with bench(echo, Limits(body_bytes=100)) as server:
        client = server.connect()
        await client.send(post(b"x" * 101, b"Expect: 100-continue")[:-101])
        answer = await client.answer()
        assert (answer.status, answer.informational) == (413, [])
        assert answer.headers[b"connection"] == b"close"
        assert await client.to_end() == b""


async def test_a_chunked_body_is_refused_where_it_grows_too_large():
    seen = []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            seen.append(len(message["body"]))
        seen.append(message["type"])

    async with bench(app, Limits(body_bytes=100)) as server:
        client = server.connect()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + b"x" * 64 + b"\r\n"
        )
        await idle()
        await client.send(b"40\r\n" + b"x" * 64 + b"\r\n0\r\n\r\n")
        assert (await client.answer()).status == 413
        assert seen == [64, "http.disconnect"]


async def test_a_broken_body_after_the_response_began_resets():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await receive()
        while (await receive())["type"] == "http.request":
            pass

    async with bench(app) as server:
        client = server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await client.until(b"x")
        await client.send(b"nonsense")
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()


async def test_head():
    async with bench(echo) as server:
        client = server.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        assert (await client.answer("HEAD")).body == b""
        assert (await client.answer()).body == b"GET / "


async def test_http_1_0():
    async def app(scope, receive, send):
        assert scope["http_version"] == "1.0"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async with bench(app) as server:
        client = server.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        wire = await client.to_end()
        assert b"connection: close\r\n" in wire
        assert wire.endswith(b"\r\n\r\nab")


@pytest.mark.parametrize(("size", "stays"), [(1000, True), (100_000, False)])
async def test_a_body_that_was_left_unread(size, stays):
    async def app(scope, receive, send):
        await reply(send)

    async with bench(app) as server:
        client = server.connect()
        wire = post(b"x" * size)
        await client.send(wire[:-size])
        answer = await client.answer()
        assert (answer.headers.get(b"connection") != b"close") is stays
        await client.send(wire[-size:])
        if stays:
            await client.send(GET)
            assert (await client.answer()).status == 200
        else:
            assert await client.to_end() == b""


async def test_an_unread_chunked_body_is_read_only_so_far():
    async def app(scope, receive, send):
        await reply(send)

    async with bench(app, Limits(unread_body=1000)) as server:
        client = server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.flood(b"100\r\n" + b"x" * 256 + b"\r\n")


async def test_what_cannot_be_parsed_is_answered_and_closed():
    async with bench(echo) as server:
        client = server.connect()
        await client.send(GET + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + GET)
        assert (await client.answer()).status == 200
        answer = await client.answer()
        assert answer.status == 400
        assert answer.headers[b"connection"] == b"close"
        assert len(answer.headers[b"x-request-id"]) == 32
        assert b"space before the colon" in answer.body
        assert await client.to_end() == b""


@pytest.mark.parametrize("target", [b"*", b"/%ff", b"x"])
async def test_a_bad_target(target):
    async with bench(echo) as server:
        client = server.connect()
        await client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert (await client.answer()).status == 400
        assert await client.to_end() == b""


async def test_a_crash_before_the_response_is_a_500(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        raise ValueError("secret")

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        answer = await client.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"a" not in answer.headers
        assert await client.to_end() == b""
    assert "ValueError: secret" in caplog.text


@pytest.mark.parametrize("crash", [True, False])
async def test_a_response_that_breaks_off_does_not_look_complete(crash, caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if crash:
            raise ValueError

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_application_that_does_not_answer(caplog):
    async def app(scope, receive, send):
        pass

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        assert (await client.answer()).status == 500
    assert "did not answer" in caplog.text


@pytest.mark.parametrize("body", [b"abcd", b"ab"])
async def test_a_body_of_the_wrong_length_is_not_sent(body, caplog):
    async def app(scope, receive, send):
        await reply(send, body, headers=[(b"content-length", b"3")])

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        assert (await client.answer()).status == 500
    assert "ResponseError" in caplog.text


async def test_a_body_that_grows_too_long_breaks_off(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()


async def test_a_forged_header_is_a_500(caplog):
    async def app(scope, receive, send):
        await reply(send, headers=[(b"location", b"/\r\nset-cookie: a=b")])

    async with bench(app) as server:
        client = server.connect()
        await client.send(GET)
        answer = await client.answer()
        assert answer.status == 500
        assert b"set-cookie" not in answer.headers


async def test_a_crash_after_the_response_keeps_the_connection(caplog):
    async def app(scope, receive, send):
        await reply(send)
        raise ValueError

    async with bench(app) as server:
        client = server.connect()
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer()).status == 200
    assert "ValueError" in caplog.text


async def test_a_late_send_of_an_old_request_touches_nobody():
    kept = []

    async def app(scope, receive, send):
        kept.append((receive, send))
        if len(kept) == 2:
            old_receive, old_send = kept[0]
            assert (await old_receive())["type"] == "http.disconnect"
            with pytest.raises(Exception, match="after the end"):
                await old_send({"type": "http.response.body", "body": b"stray"})
        await reply(send, b"%d" % len(kept))

    async with bench(app) as server:
        client = server.connect()
        for i in (b"1", b"2"):
            await client.send(GET)
            assert (await client.answer()).body == i


async def test_the_scope():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        scope["state"]["mine"] = 1
        await reply(send)

    async with bench(app) as server:
        client = server.connect()
        await client.send(b"GET http://y:1/a%20b?c=%20 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
        await client.answer()
        scope = scopes[0]
        register = scope.pop("extensions")["illm.disconnect"]["register"]
        assert callable(register)
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"c=%20",
            "root_path": "",
            "headers": [(b"host", b"y:1"), (b"x-a", b"1"), (b"x-a", b"2")],
            "client": None,
            "server": None,
            "state": {"mine": 1},
        }
        assert server.service.state == {}


async def test_too_many_connections():
    async with bench(echo, Limits(connections=1, retry_after=7)) as server:
        first = server.connect()
        await first.send(GET)
        await first.answer()
        second = server.connect()
        answer = await second.answer()
        assert answer.status == 503
        assert answer.headers[b"retry-after"] == b"7"
        assert await Client(second.stream).to_end() == b""
        await first.send(GET)
        assert (await first.answer()).status == 200
