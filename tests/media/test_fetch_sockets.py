"""Fetching over real sockets: TLS names, what is cut short, what never ends, who leaves."""

import ssl
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
import trustme
from backends.remote.fake_server import CLOSE, RESET, STALL, chunk, fake_server, head, response

from illm.errors import GatewayError
from illm.media.fetch import Fetcher
from illm.media.policy import ImagePolicy, read_hosts
from illm.media.refusals import NO_ANSWER, refused
from media.pictures import png

pytestmark = pytest.mark.anyio

DATA = png() + bytes(100)
NAME = "pictures.example"


async def local(host: str, port: int) -> Sequence[str]:
    await anyio.lowlevel.checkpoint()
    return ["127.0.0.1"]


def allowing(url: str, **said: object) -> ImagePolicy:
    hosts, networks = read_hosts(["127.0.0.1"])
    return ImagePolicy(hosts=hosts, networks=networks, ports=frozenset({urlsplit(url).port}), **said)


def nothing(size: int) -> None:
    pass


async def fetch(url: str, take=nothing, **said: object) -> bytes:
    with anyio.fail_after(10):
        return await Fetcher(allowing(url, **said), resolve=local).fetch(url, take)


def named(url: str) -> str:
    return url.replace("127.0.0.1", NAME)


async def test_a_picture():
    seen = []

    def probe(request):
        seen.append(request)
        return [response(DATA, content_type="text/plain")]

    async with fake_server(probe=probe) as server:
        assert await fetch(f"{named(server.url)}/a?b=c") == DATA
        await server.until(lambda: server.open == 0)
    [request] = seen
    assert request.target == "/a?b=c"
    assert request.headers == {
        "host": named(server.url).removeprefix("http://"),
        "user-agent": "illm",
        "accept": "image/png, image/jpeg, image/webp, image/gif",
        "accept-encoding": "identity",
        "connection": "close",
    }


async def test_no_proxy_and_no_netrc_from_the_environment(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen = []

    def probe(request):
        seen.append(request)
        return [response(DATA)]

    async with fake_server() as proxy, fake_server(probe=probe) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await fetch(server.url) == DATA
        assert proxy.accepted == 0
    assert "authorization" not in seen[0].headers


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def certificate(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("name", [NAME, "127.0.0.1"])
async def test_tls_is_verified_for_the_name_that_was_asked_for(authority, ca_file, name):
    asked = []
    context = certificate(authority, name)
    context.sni_callback = lambda _, sni, __: asked.append(sni)
    async with fake_server(probe=[response(DATA)], tls=context) as server:
        assert await fetch(server.url.replace("127.0.0.1", name), ca_file=ca_file) == DATA
    assert asked == [None if name == "127.0.0.1" else NAME]


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_for_another_name_or_of_another_authority(authority, ca_file, trusted):
    async with fake_server(
        probe=[response(DATA)], tls=certificate(authority, "127.0.0.1" if trusted else NAME)
    ) as server:
        with pytest.raises(GatewayError) as caught:
            await fetch(named(server.url), ca_file=ca_file if trusted else None)
        assert caught.value.message == NO_ANSWER
        assert server.probes == 0


@pytest.mark.parametrize(
    "script",
    [
        [CLOSE],
        [RESET],
        [b"nonsense\r\n\r\n", CLOSE],
        [head(length=len(DATA)), DATA[:-1], CLOSE],
        [head(chunked=True), chunk(DATA), CLOSE],
        [head(chunked=True), chunk(DATA), b"zz\r\n", CLOSE],
        [head(length=len(DATA)), DATA[:-1], RESET],
        [b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 2**20],
    ],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_what_breaks_off(authority, ca_file, script, tls):
    async with fake_server(probe=script, tls=certificate(authority, "127.0.0.1") if tls else None) as server:
        with pytest.raises(GatewayError) as caught:
            await fetch(server.url, ca_file=ca_file)
        assert caught.value.message == NO_ANSWER


async def test_nobody_listens():
    async with fake_server() as server:
        await server.stop()
        with pytest.raises(GatewayError) as caught:
            await fetch(server.url)
    assert caught.value.message == NO_ANSWER


ENDLESS = [chunk(bytes(50000))] * 1000


@pytest.mark.parametrize(
    "script",
    [
        [head(length=10**9), STALL],
        [head(length=100001), bytes(100001), STALL],
        [head(chunked=True), *ENDLESS, STALL],
        [head(), *ENDLESS, STALL],
        [head(chunked=True), *[chunk(bytes(100))] * 2000, chunk(b"")],
    ],
)
async def test_too_large_is_noticed_while_it_comes(script):
    async with fake_server(probe=script) as server:
        with pytest.raises(GatewayError, match="larger than 100000 bytes"):
            await fetch(server.url, max_bytes=100000)
        await server.until(lambda: server.open == 0)
        assert server.sent < 10 * 2**20


async def test_as_large_as_may_be():
    async with fake_server(probe=[response(bytes(100000))]) as server:
        assert await fetch(server.url, max_bytes=100000) == bytes(100000)


async def test_every_piece_is_accounted_for_and_the_account_may_refuse():
    taken = 0

    def take(size: int) -> None:
        nonlocal taken
        taken += size
        if taken > 200000:
            raise refused("enough")

    async with fake_server(probe=[head(chunked=True), *ENDLESS, STALL]) as server:
        with pytest.raises(GatewayError, match="enough"):
            await fetch(server.url, take)
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize(
    "script", [[STALL], [head(chunked=True), STALL], [head(chunked=True), chunk(DATA), STALL], [head(302), STALL]]
)
@pytest.mark.parametrize("tls", [False, True])
async def test_leaving_closes_the_connection_at_once(authority, ca_file, script, tls):
    async with fake_server(probe=script, tls=certificate(authority, "127.0.0.1") if tls else None) as server:
        policy = replace(allowing(server.url), ca_file=ca_file)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(GatewayError):  # only of the redirect that leads nowhere
                        await Fetcher(policy, resolve=local).fetch(server.url, nothing)

                tasks.start_soon(ask)
                await server.until(lambda: server.probes == 1 and server.sent >= sum(map(len, script[:-1])))
                tasks.cancel_scope.cancel()
            await server.until(lambda: server.open == 0)
