"""Fetching: what is connected to is what was checked, whatever names and redirects say."""

from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
import httpx
import pytest

from illm.errors import GatewayError, Kind
from illm.media.fetch import MAX_ADDRESSES, MAX_REDIRECTS, Fetcher
from illm.media.policy import ImagePolicy, read_hosts
from illm.media.refusals import HOST, NO_ANSWER
from media.pictures import png

pytestmark = pytest.mark.anyio

PUBLIC, OTHER = "93.184.216.34", "2606:4700::1111"


class Names:
    """A resolver of our own; each name may change its answer from one question to the next."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await anyio.lowlevel.checkpoint()
        self.asked.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Web(httpx.MockTransport):
    """Every server there is: answers by address, and remembers what was asked."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        super().__init__(answer)
        self.seen: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return await super().handle_async_request(request)


class Body(httpx.AsyncByteStream):
    """A body that is still to be read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self):
        for piece in self.pieces:
            yield piece

    async def aclose(self) -> None:
        self.closed = True


def picture(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Body(png()[:5], png()[5:]))


def nothing(size: int) -> None:
    pass


async def fetch(
    url: str,
    names: Names | None = None,
    answer: Callable[[httpx.Request], httpx.Response] = picture,
    policy: ImagePolicy | None = None,
) -> tuple[bytes | GatewayError, Web]:
    web = Web(answer)
    fetcher = Fetcher(policy or ImagePolicy(), resolve=names or Names(good_example=[[PUBLIC]]), transport=web)
    try:
        return await fetcher.fetch(url, nothing), web
    except GatewayError as error:
        return error, web


async def test_what_goes_over_the_wire():
    data, web = await fetch("https://Good.Example:443/a%20b?c=d&e#f", Names(good_example=[[PUBLIC]]))
    assert data == png()
    [request] = web.seen
    assert str(request.url) == f"https://{PUBLIC}/a%20b?c=d&e"
    assert request.extensions["sni_hostname"] == "good.example"
    assert dict(request.headers) == {
        "host": "good.example",
        "user-agent": "illm",
        "accept": "image/png, image/jpeg, image/webp, image/gif",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["::1"],
        ["0.0.0.0"],
        ["169.254.169.254"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["fe80::1%eth0"],
        ["2606:4700::1111%eth0"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        [PUBLIC, OTHER, PUBLIC, OTHER, "8.8.8.8", "127.0.0.1"],  # the bad one behind those that would be tried
        [],
        ["nonsense"],
    ],
)
async def test_a_name_for_something_internal(answers):
    error, web = await fetch("http://bad.example/", Names(bad_example=[answers]))
    assert (error.kind, error.message) == (Kind.INVALID_REQUEST, HOST)
    assert web.seen == []


REFUSED_URLS = [
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://[::1]/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://2130706433/",
    "http://0x7f.0.0.1/",
    "http://127.1/",
    "http://unknown.example/",
    "http://localhost/",
    "http://localhost./",
    "http://metadata.google.internal/",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
async def test_a_client_cannot_tell_what_is_internal_from_what_is_not_there(url):
    names = Names(localhost=[["127.0.0.1", "::1"]], metadata_google_internal=[["169.254.169.254"]])
    error, web = await fetch(url, names)
    assert (error.message, error.param, web.seen) == (HOST, None, [])


async def test_the_operator_is_told_what_the_client_is_not(caplog):
    caplog.set_level("INFO", "illm.media")
    await fetch("http://bad.example/", Names(bad_example=[[PUBLIC, "10.0.0.1"]]))
    assert caplog.messages == [f"no image is fetched from bad.example, which is ['{PUBLIC}', '10.0.0.1']"]


async def test_the_systems_resolver_is_checked_as_well():
    for url in ("http://localhost/", "http://localhost:443/", "http://127.0.0.1/"):
        with pytest.raises(GatewayError) as caught:
            await Fetcher(ImagePolicy()).fetch(url, nothing)
        assert caught.value.message == HOST


async def test_a_name_that_changes_its_answer_is_asked_once_and_held_to_it():
    names = Names(rebind_example=[[PUBLIC], ["127.0.0.1"]])
    data, web = await fetch("http://rebind.example/", names)
    assert data == png()
    assert names.asked == ["rebind.example"]
    assert [request.url.host for request in web.seen] == [PUBLIC]


async def test_a_name_that_changes_its_answer_between_redirects():
    names = Names(rebind_example=[[PUBLIC], ["127.0.0.1"]])
    error, web = await fetch("http://rebind.example/", names, lambda _: httpx.Response(302, headers={"location": "/b"}))
    assert error.message == HOST
    assert len(web.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/", HOST),
        ("//127.0.0.1/", HOST),
        ("http://[::ffff:10.0.0.1]/", HOST),
        ("http://internal.example/", HOST),
        ("http://unknown.example/", HOST),
        ("http://good.example:6379/", "the port of the URL is not allowed"),
        ("file:///etc/passwd", "only http, https and data URLs are fetched"),
        ("data:image/png;base64,AA", "only http, https and data URLs are fetched"),
        ("http://a:b@good.example/", "a URL with a user or a password is not fetched"),
    ],
)
async def test_a_redirect_to_what_must_not_be_fetched(status, location, reason):
    names = Names(good_example=[[PUBLIC]], internal_example=[["10.0.0.1"]])
    error, web = await fetch(
        "https://good.example/", names, lambda _: httpx.Response(status, headers={"location": location})
    )
    assert error.message == reason
    assert len(web.seen) == 1


async def test_redirects_are_followed_anew_without_cookies():
    names = Names(good_example=[[PUBLIC]], other_example=[[OTHER]])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == PUBLIC:
            headers = {"location": "http://other.example/b", "set-cookie": "a=b; Domain=example"}
            return httpx.Response(302, headers=headers)
        return picture(request)

    data, web = await fetch("https://good.example/a", names, answer)
    assert data == png()
    assert [str(request.url) for request in web.seen] == [f"https://{PUBLIC}/a", f"http://[{OTHER}]/b"]
    assert [request.headers["host"] for request in web.seen] == ["good.example", "other.example"]
    assert "cookie" not in web.seen[1].headers
    assert "referer" not in web.seen[1].headers


@pytest.mark.parametrize("hops", [MAX_REDIRECTS, MAX_REDIRECTS + 1])
async def test_how_many_redirects(hops):
    def answer(request: httpx.Request) -> httpx.Response:
        at = int(request.url.path.strip("/") or 0)
        return picture(request) if at == hops else httpx.Response(302, headers={"location": f"/{at + 1}"})

    found, web = await fetch("http://good.example/", answer=answer)
    assert len(web.seen) == MAX_REDIRECTS + 1
    if hops > MAX_REDIRECTS:
        assert found.message == "the image could not be fetched: too many redirects"
    else:
        assert found == png()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx.Response(404), "the image could not be fetched: 404"),
        (httpx.Response(500, content=png()), "the image could not be fetched: 500"),
        (httpx.Response(204), "the image could not be fetched: 204"),
        (httpx.Response(206, content=png()), "the image could not be fetched: 206"),
        (httpx.Response(302), "the image could not be fetched: 302"),
        (httpx.Response(304, headers={"location": "http://127.0.0.1/"}), "the image could not be fetched: 304"),
    ],
)
async def test_other_answers(response, reason):
    error, _ = await fetch("http://good.example/", answer=lambda _: response)
    assert error.message == reason


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "zstd", "identity, gzip", "x"])
async def test_compressed_answers_are_not_opened(coding):
    body = Body(png())
    response = httpx.Response(200, headers={"content-encoding": coding}, stream=body)
    error, _ = await fetch("http://good.example/", answer=lambda _: response)
    assert error.message == "the image could not be fetched: its server compressed it"
    assert body.closed


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("x"), httpx.RemoteProtocolError("10.0.0.1"), OSError(13, "secret")]
)
async def test_failures_say_nothing(error):
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    found, _ = await fetch("http://good.example/", answer=answer)
    assert found.message == NO_ANSWER
    assert found.__cause__ is None


async def test_the_next_address_is_tried_where_one_does_not_answer():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != "8.8.8.8":
            raise httpx.ConnectError("no route")
        return picture(request)

    names = Names(good_example=[[OTHER, PUBLIC, PUBLIC, "8.8.8.8"]])
    data, web = await fetch("http://good.example/", names, answer)
    assert data == png()
    assert [request.url.host for request in web.seen] == [OTHER, PUBLIC, "8.8.8.8"]


async def test_only_so_many_addresses_are_tried():
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("slow")

    names = Names(good_example=[[f"8.8.8.{at}" for at in range(20)]])
    error, web = await fetch("http://good.example/", names, answer)
    assert error.message == NO_ANSWER
    assert len(web.seen) == MAX_ADDRESSES


async def test_what_was_asked_is_not_asked_again_at_another_address():
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    _, web = await fetch("http://good.example/", Names(good_example=[[PUBLIC, "8.8.8.8"]]), answer)
    assert len(web.seen) == 1


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "intranet.example"])
async def test_what_the_operator_allows(entry):
    hosts, networks = read_hosts([entry])
    policy = ImagePolicy(hosts=hosts, networks=networks, ports=frozenset({8080}))
    names = Names(intranet_example=[["10.1.2.3"]])
    data, web = await fetch("http://intranet.example:8080/", names, policy=policy)
    assert data == png()
    assert str(web.seen[0].url) == "http://10.1.2.3:8080/"
    assert web.seen[0].headers["host"] == "intranet.example:8080"
    error, _ = await fetch("http://intranet.example/", names, policy=policy)
    assert error.message == "the port of the URL is not allowed"
