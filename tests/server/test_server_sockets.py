"""The server on real sockets, with clients that others wrote."""

import importlib.util
import socket
import subprocess

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute
from driving import GET, Client, echo, idle, listening, post, reply

from illm.http11.engine import ENGINES
from illm.server import Limits, serving

pytestmark = pytest.mark.anyio
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param(("asyncio", {"use_uvloop": True}), marks=pytest.mark.skipif(not HAS_UVLOOP, reason="no uvloop")),
        "trio",
    ],
    ids=["asyncio", "uvloop", "trio"],
)
def anyio_backend(request):
    """Real sockets differ by loop: a third one here."""
    return request.param


async def test_no_accepted_socket_waits_to_fill_a_packet(monkeypatch):
    options = []

    class Spy(serving.Connection):
        def opened(self, wire) -> None:
            options.append(wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().opened(wire)

    monkeypatch.setattr(serving, "Connection", Spy)
    async with listening(echo) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(GET)
        assert (await Client(stream).answer()).status == 200
    assert [bool(option) for option in options] == [True]


@pytest.mark.parametrize("http", ENGINES)
async def test_httpx(http):
    if http != "auto":
        pytest.importorskip(http)
    async with (
        listening(echo, http=http) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}") as client,
    ):
        assert (await client.get("/a%20b")).content == b"GET /a%20b "
        assert (await client.head("/")).content == b""
        for body in (b"x" * 300_000, b""):
            assert (await client.post("/p", content=body)).content == b"POST /p " + body

        async def chunks():
            for i in range(10):
                yield b"%d" % i

        assert (await client.post("/c", content=chunks())).content == b"POST /c 0123456789"


async def test_a_large_response_to_a_client_that_leaves():
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await reply(send, b"x" * 50_000_000)

    async with listening(app) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(GET)
        await stream.receive()


@pytest.mark.parametrize("size", [50_000, 5_000_000])
async def test_the_last_answer_is_read_to_its_end_by_a_slow_client(size):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await reply(send, b"x" * size, headers=[(b"connection", b"close")])

    async with listening(app) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(GET)
        await idle()  # it waits for us, or has nothing more to do than to close
        assert len((await Client(stream).answer()).body) == size


@pytest.mark.parametrize("how", ["reset", "close", "half"])
async def test_the_disconnect_of_a_real_client_is_noticed(how, caplog):
    running, left = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            scope["extensions"]["illm.disconnect"]["register"](left.set)
            running.set()
            await left.wait()

    async with listening(app) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(GET)
        await running.wait()
        if how == "half":
            await stream.send_eof()
        else:
            if how == "reset":
                linger = (1).to_bytes(4, "little") + bytes(4)
                stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await stream.aclose()
        with anyio.fail_after(5):
            await left.wait()
    assert caplog.records == []


async def test_half_a_response_ends_with_a_reset(caplog):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            # To an HTTP/1.0 client a clean end would say that this is all.
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async with listening(app) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(anyio.BrokenResourceError):
            await Client(stream).until(b"an end that does not come")


async def test_a_refused_client_can_read_why_although_it_still_sends():
    async with listening(echo) as address, await anyio.connect_tcp(*address) as stream:
        client = Client(stream)
        await client.send(post(b"x" * 1_000_000).replace(b"Length: ", b"Length: 9999"))
        answer = await client.answer()
        assert answer.status == 413


async def test_a_unix_socket(tmp_path):
    path = tmp_path / "s"
    async with listening(echo, uds=str(path)) as address:
        assert address == (str(path), 0)
        assert path.is_socket()
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://x/")).content == b"GET / "
    assert path.is_socket()  # other workers accept there still


async def curl(*arguments: str) -> str:
    done = await anyio.run_process(["curl", "-sS", "--max-time", "15", *arguments], stderr=subprocess.STDOUT)
    return done.stdout.decode()


async def test_curl():
    async with listening(echo) as (host, port):
        url = f"http://{host}:{port}"
        assert await curl(f"{url}/1", f"{url}/2") == "GET /1 GET /2 "
        assert await curl("-d", "a=b", url) == "POST / a=b"
        assert await curl("-H", "Transfer-Encoding: chunked", "-d", "a=b", url) == "POST / a=b"
        assert await curl("--http1.0", f"{url}/old") == "GET /old "
        assert "200 OK" in await curl("-I", url)
        assert "100 Continue" in await curl("-i", "-H", "Expect: 100-continue", "-d", "a=b", url)
        assert await curl("-X", "OPTIONS", "--request-target", "*", url) == "OPTIONS * "
        assert await curl("--proxy", url, "http://elsewhere/x") == "GET /x "


async def test_nobody_who_was_turned_away_outlives_the_server():
    async with (
        listening(echo, limits=Limits(connections=1)) as address,
        await anyio.connect_tcp(*address) as first,
    ):
        await first.send(GET)
        await Client(first).answer()
        second = await anyio.connect_tcp(*address)
        assert (await Client(second).answer()).status == 503
    with anyio.fail_after(5):
        await Client(second).flood(b"still sending")
    await second.aclose()
