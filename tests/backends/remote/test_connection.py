"""Connections to real sockets: kept while good, replaced once when not, trusted only with a certificate."""

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
import trustme
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from backends.remote.echo import answer, failure, running, text
from backends.remote.fake_server import (
    CLOSE,
    RESET,
    chunk,
    fake_server,
    head,
    pieces,
    response,
)
from illm.backends.remote import connection as connection_module
from illm.backends.remote.address import parse_address
from illm.backends.remote.connection import Connection, UnreachableError, connect
from illm.backends.remote.server import Server, trust
from illm.core.events import Delta, Done, Failed
from illm.errors import Kind
from illm.loop.wire import Wire

pytestmark = pytest.mark.anyio

OK = response(b"fine")


@asynccontextmanager
async def opening(url: str, ca: str | None = None) -> AsyncIterator[Wire]:
    """A connection that nobody speaks on."""
    address = parse_address(url)
    wire = await connect(Server("echo", 0, address, trust(ca) if address.tls else None), Connection())
    yield wire
    wire.abort()


def playing(*scripts):
    """One script a request, in the order in which requests come."""
    left = list(scripts)
    return lambda seen: left.pop(0)


async def test_a_hundred_sequential_streams_use_one_connection():
    stream = [head(chunked=True), chunk(b"a"), chunk(b"b"), chunk(b"")]
    with anyio.fail_after(20):
        async with fake_server(stream) as server, running(server.url) as ref:
            for _ in range(100):
                assert await text(ref) == "ab"
            assert (len(server.requests), server.connections) == (100, 1)


@pytest.mark.parametrize(
    "wire",
    [
        response(b"hello"),
        head(chunked=True) + chunk(b"hel") + chunk(b"lo") + chunk(b""),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"hello"),
    ],
)
async def test_an_answer_arrives_however_it_is_cut(wire):
    with anyio.fail_after(20):
        async with fake_server(pieces(wire)) as server, running(server.url) as ref:
            assert await text(ref) == await text(ref) == "hello"
            assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [
        [head(), b"hel", b"lo", CLOSE],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", CLOSE],
        [response(b"hello", connection="close"), CLOSE],
        [response(b"hello") + b"more"],
    ],
)
async def test_a_connection_that_cannot_be_reused_is_not(script):
    with anyio.fail_after(10):
        async with fake_server(script) as server, running(server.url) as ref:
            assert await text(ref) == await text(ref) == "hello"
            assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.parametrize(
    ("scripts", "requests", "outcome"),
    [
        pytest.param([[OK], [CLOSE], [OK]], 3, "fine", id="reused, closed: again"),
        pytest.param([[OK], [RESET], [OK]], 3, "fine", id="reused, reset: again"),
        pytest.param([[OK], [CLOSE], [CLOSE]], 3, Kind.UPSTREAM, id="reused, closed twice: once only"),
        pytest.param([[CLOSE]], 1, Kind.UPSTREAM, id="new, closed: never"),
        pytest.param([[RESET]], 1, Kind.UPSTREAM, id="new, reset: never"),
        pytest.param([[OK], [b"H", CLOSE]], 2, Kind.UPSTREAM, id="reused, after a byte: never"),
        pytest.param([[OK], [b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE]], 2, Kind.UPSTREAM, id="reused, interim: never"),
        pytest.param([[OK], [head(length=4), CLOSE]], 2, Kind.UPSTREAM, id="reused, after the head: never"),
        pytest.param([[OK], [head(length=4), b"fi", RESET]], 2, Kind.UPSTREAM, id="reused, in the body: never"),
        pytest.param([[OK], [response(b"", 500)]], 2, Kind.UPSTREAM, id="reused, an error is an answer: never"),
    ],
)
async def test_when_a_request_is_sent_again(scripts, requests, outcome):
    with anyio.fail_after(10):
        async with fake_server(playing(*scripts)) as server, running(server.url) as ref:
            if len(scripts) > 1:
                assert await text(ref) == "fine"
            if isinstance(outcome, str):
                assert await text(ref) == outcome
            else:
                assert (await failure(ref)).kind is outcome
            assert len(server.requests) == requests


async def test_a_connection_that_was_closed_while_idle_is_not_written_to():
    closing = anyio.Event()
    with anyio.fail_after(10):
        async with fake_server(playing([OK, closing, CLOSE], [OK])) as server, running(server.url) as ref:
            assert await text(ref) == "fine"
            closing.set()
            await server.until(lambda: server.open == 0)
            assert await text(ref) == "fine"
            assert (len(server.requests), server.connections) == (2, 2)


async def test_a_connection_on_which_something_came_unasked_is_not_reused():
    speaking = anyio.Event()
    with anyio.fail_after(10):
        async with fake_server(playing([OK, speaking, OK], [OK])) as server, running(server.url) as ref:
            assert await text(ref) == "fine"
            before = server.sent
            speaking.set()
            await server.until(lambda: server.sent > before)
            assert await text(ref) == "fine"
            assert server.connections == 2


@pytest.mark.parametrize(
    ("script", "begun"),
    [
        ([head(length=9), b"hello", CLOSE], "hello"),
        ([head(length=9), b"hello", RESET], "hello"),
        ([head(chunked=True), chunk(b"hello"), CLOSE], "hello"),
        ([head(chunked=True), chunk(b"hello"), chunk(b"")[:3], CLOSE], "hello"),
        ([head(chunked=True), chunk(b"hello"), b"zz\r\n"], "hello"),
        ([head(chunked=True) + chunk(b"hello") + chunk(b"non!sense")], ""),
        ([b"SSH-2.0-OpenSSH\r\n"], ""),
        ([head(200, length=2, content_encoding="gzip") + b"zz"], ""),
        ([b"HTTP/1.1 200 OK\r\n", CLOSE], ""),
    ],
)
async def test_what_breaks_off_or_makes_no_sense_never_ends_well(script, begun):
    with anyio.fail_after(10):
        async with fake_server(script) as server, running(server.url) as ref:
            events = await answer(ref)
            assert isinstance(events[-1], Failed)
            assert events[-1].error.kind is Kind.UPSTREAM
            assert not any(isinstance(event, Done) for event in events)
            said = "".join(event.text for event in events if isinstance(event, Delta))
            assert said.startswith(begun)
            await server.until(lambda: server.open == 0)


async def test_a_refusal_that_is_read_to_its_end_keeps_the_connection():
    with anyio.fail_after(10):
        async with fake_server([response(b"{}", 400)]) as server, running(server.url) as ref:
            assert [(await failure(ref)).kind for _ in range(3)] == [Kind.INVALID_REQUEST] * 3
            assert server.connections == 1


async def test_requests_carry_what_the_server_wants():
    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url + "/pre/v1", key="s3cret") as ref:
            await text(ref, model="m")
            seen = server.requests[0]
            assert seen.target == "/pre/v1/echo"
            assert seen.headers == {
                "host": server.url.removeprefix("http://"),
                "user-agent": "illm",
                "accept-encoding": "identity",
                "authorization": "Bearer s3cret",
                "x-model": "m",
                "content-length": "5",
            }


async def test_neither_keys_nor_addresses_are_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with anyio.fail_after(10):
        scripts = playing([CLOSE], [b"x"], [head(length=3), CLOSE])
        async with fake_server(scripts) as server, running(server.url, key="s3cret") as ref:
            messages = [(await failure(ref)).message for _ in range(3)]
            shown = f"{messages} {ref.served.details()} {ref.problem}"
    assert "127.0.0.1" not in shown
    assert "s3cret" not in shown + caplog.text
    assert "s3cret" not in repr(Server("echo", 0, parse_address(server.url), key="s3cret"))


@pytest.mark.parametrize("tls", [False, True])
async def test_nagle_is_off_on_every_socket(tls: bool, authority: trustme.CA, certificate: ssl.SSLContext, tmp_path):
    with anyio.fail_after(10):
        async with fake_server(tls=certificate if tls else None) as server:
            ca = tmp_path / "ca.pem"
            authority.cert_pem.write_to_path(ca)
            async with opening(server.url, str(ca)) as wire:
                assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_a_unix_socket(tmp_path):
    with anyio.fail_after(10):
        async with fake_server([OK], path=str(tmp_path / "s")) as server:
            async with running(server.url) as ref:
                assert await text(ref) == await text(ref) == "fine"
                assert server.connections == 1
                assert server.requests[0].headers["host"] == "localhost"
            # anyio's unix sockets stumble over a stream that ends just as its reader is cancelled.
            await server.until(lambda: server.open == 0)


async def test_ipv6():
    try:
        async with fake_server([OK], host="::1") as server, running(server.url) as ref:
            assert await text(ref) == "fine"
    except OSError:
        pytest.skip("no IPv6 here")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_with_a_certificate_of_our_own(authority, certificate, tmp_path):
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    with anyio.fail_after(10):
        async with fake_server([OK], tls=certificate) as server, running(server.url, ca_file=str(ca)) as ref:
            assert await text(ref) == await text(ref) == "fine"
            assert server.connections == 1


async def test_a_server_name_is_sent_and_checked(authority, tmp_path):
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with anyio.fail_after(10):
        async with fake_server([OK], tls=context) as server:
            async with running(server.url.replace("127.0.0.1", "localhost"), ca_file=str(ca)) as ref:
                assert await text(ref) == "fine"
            assert set(names) == {"localhost"}
            with pytest.raises(UnreachableError, match="not trusted"):  # the name in the address is another
                async with opening(server.url, str(ca)):
                    pass


async def test_a_certificate_nobody_vouches_for_is_refused(certificate):
    with anyio.fail_after(10):
        async with fake_server([OK], tls=certificate) as server, running(server.url) as ref:
            assert ref.state == "down"
            assert ref.served.details()["replicas"][0]["problem"] == "the certificate is not trusted"
            assert not server.requests


async def test_tls_to_a_server_that_does_not_speak_it():
    async def answer_in_plain(stream: ByteStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with anyio.fail_after(10):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer_in_plain)
            with pytest.raises(UnreachableError, match="handshake"):
                async with opening(f"https://127.0.0.1:{port}"):
                    pass
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("http://nowhere.invalid", "the name does not resolve"),
        ("unix:///nowhere/s", "no such socket"),
    ],
)
async def test_reasons_are_named_without_addresses(url, reason):
    with anyio.fail_after(10), pytest.raises(UnreachableError) as failed:
        async with opening(url):
            pass
    assert failed.value.reason == reason
    assert not failed.value.ours


async def test_running_out_of_descriptors_is_our_fault_and_not_the_servers(monkeypatch):
    async def no_more(*_args: object) -> None:
        raise OSError(24, "Too many open files")

    with anyio.fail_after(10):
        async with fake_server([OK]) as server, running(server.url) as ref:
            with monkeypatch.context() as patch:
                patch.setattr(connection_module, "open_tcp", no_more)
                assert (await failure(ref)).kind is Kind.OVERLOADED
            assert ref.state == "ready"
            assert await text(ref) == "fine"


@pytest.mark.parametrize("farewell", [True, False], ids=["ended", "cut"])
async def test_an_answer_without_a_length_ends_with_the_farewell_of_tls_and_with_nothing_else(
    farewell: bool, authority: trustme.CA, certificate: ssl.SSLContext, tmp_path
):
    """Anybody on the way can close a TCP connection; only the server can say that this was all."""
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)

    async def answer_once(raw: ByteStream) -> None:
        stream = await TLSStream.wrap(raw, server_side=True, ssl_context=certificate, standard_compatible=False)
        async with raw:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\nall there is")
            if farewell:
                stream.standard_compatible = True
                with suppress(anyio.BrokenResourceError, anyio.EndOfStream, OSError):
                    await stream.aclose()

    with anyio.fail_after(10):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer_once)
            receiver = Connection()
            address = parse_address(f"https://127.0.0.1:{port}")
            await receiver.open(Server("echo", 0, address, trust(str(ca))))
            receiver.send(b"GET / HTTP/1.1\r\n\r\n")
            while said := await receiver.receive():
                pass
            assert said == (b"" if farewell else None)
            receiver.close()
            tasks.cancel_scope.cancel()
