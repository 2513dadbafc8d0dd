"""Fetch an image from where a client says it is, without becoming the client's hand inside our network.

How the address that was checked is the one that is connected to: the name is resolved here, every address it has is
checked, and httpx is then given a URL with an *address* in the name's place.  The name goes along only where it names:
as the `host` field, and as `sni_hostname`, httpx's extension for the name that TLS asks for and verifies.  httpx has
nothing left to resolve, so a name that changes its answer meanwhile changes nothing.  A redirect starts over.

httpx's transport is used without its client.  Cookies, credentials, `.netrc`, proxies from the environment, following
redirects and decompression all live in the client, so none of them needs to be turned off.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from socket import SOCK_STREAM
from types import MappingProxyType

import anyio
import anyio.to_thread
import httpx

from illm.errors import GatewayError
from illm.media.addresses import Address, may_connect, read_address
from illm.media.data_urls import too_large
from illm.media.links import Link, follow, read_link
from illm.media.policy import ImagePolicy
from illm.media.refusals import HOST, NO_ANSWER, refused

logger = logging.getLogger("illm.media")

MAX_REDIRECTS = 3
MAX_ADDRESSES = 4
"""How many addresses of a name are tried, one after the other."""

CONNECT_TIMEOUT = 5.0
"""Seconds for one of them."""

READ_TIMEOUT = 10.0
"""Seconds an image server may say nothing: who holds one of a few places must use it."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Take = Callable[[int], None]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FIELDS = MappingProxyType(
    {
        "user-agent": "illm",
        "accept": "image/png, image/jpeg, image/webp, image/gif",
        # What is compressed might be anything once it is not.
        "accept-encoding": "identity",
        "connection": "close",
    }
)
_TIMEOUTS = {"connect": CONNECT_TIMEOUT, "read": READ_TIMEOUT, "write": READ_TIMEOUT, "pool": None}
# ssl.SSLError is an OSError; the last two come through httpx from a TLS stream of anyio's.
_FAILURES = (httpx.HTTPError, httpx.StreamError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name, in the order the system prefers.  Raises `OSError` where it has none."""
    found = await anyio.getaddrinfo(host, port, type=SOCK_STREAM)
    return [str(row[4][0]) for row in found]


class Fetcher:
    """Fetches images by the rules of one policy.

    Args:
        policy: what is allowed.
        resolve: looks names up.
        transport: what requests go through, in tests; else a connection of its own for each.
    """

    def __init__(
        self, policy: ImagePolicy, *, resolve: Resolve = resolve, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._transport = transport
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, take: Take) -> bytes:
        """Fetch what stands behind an http or https address.  The deadline is the caller's.

        Args:
            url: as the client wrote it.
            take: told of every piece's size before it is kept; raises `GatewayError` when it was one too many.

        Raises:
            GatewayError: it must not be fetched, could not be, or is too large.
        """
        link = read_link(url, self._policy.ports)
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._visit(link, take)
            if isinstance(found, bytes):
                return found
            link = found
        raise refused("the image could not be fetched: too many redirects")

    async def _visit(self, link: Link, take: Take) -> bytes | Link:
        addresses = await self._addresses(link)
        try:
            async with await self._connection() as transport:
                response = await _ask(transport, link, addresses)
                try:
                    return await self._answer(link, response, take)
                finally:
                    with anyio.move_on_after(1, shield=True):
                        await response.aclose()
        except _FAILURES as error:
            logger.info("fetching an image from %s failed: %r", link.authority, error)
            raise refused(NO_ANSWER) from None

    async def _addresses(self, link: Link) -> Sequence[Address]:
        if link.literal is not None:
            found: list[Address | None] = [link.literal]
        else:
            try:
                found = [read_address(text) for text in await self._resolve(link.host, link.port)]
            except (OSError, UnicodeError):
                found = []
        # One bad address spoils all: a name that has both kinds is up to something.
        good = [one for one in found if one is not None and may_connect(link.host, one, self._policy)]
        if not good or len(good) != len(found):
            # The operator may know what the client must not.
            logger.info("no image is fetched from %s, which is %s", link.authority, [str(one) for one in found])
            raise refused(HOST)
        return tuple(dict.fromkeys(good))[:MAX_ADDRESSES]

    async def _connection(self) -> httpx.AsyncBaseTransport:
        if self._transport is not None:
            return self._transport
        if self._tls is None:
            self._tls = await anyio.to_thread.run_sync(_trust, self._policy.ca_file)
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)

    async def _answer(self, link: Link, response: httpx.Response, take: Take) -> bytes | Link:
        location = response.headers.get("location")
        if response.status_code in _REDIRECTS and location is not None:
            return follow(link, location, self._policy.ports)
        if response.status_code != 200:
            raise refused(f"the image could not be fetched: {response.status_code}")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise refused("the image could not be fetched: its server compressed it")
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._policy.max_bytes:
            raise too_large(self._policy)
        return await self._read(response, take)

    async def _read(self, response: httpx.Response, take: Take) -> bytes:
        body = bytearray()
        problem: GatewayError | None = None
        with anyio.CancelScope() as scope:
            # Left by cancellation, never by an exception: only so do httpx's generators, one within the other, end
            # here and now and not whenever the garbage collector finds them.
            async for chunk in response.aiter_raw():
                try:
                    take(len(chunk))
                    if len(body) + len(chunk) > self._policy.max_bytes:
                        raise too_large(self._policy)
                    body += chunk
                except GatewayError as error:
                    problem = problem or error
                    scope.cancel()
        if problem is not None:
            raise problem
        return bytes(body)


async def _ask(transport: httpx.AsyncBaseTransport, link: Link, addresses: Sequence[Address]) -> httpx.Response:
    for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
        request = httpx.Request(
            "GET",
            link.at(address),
            headers={"host": link.authority, **_FIELDS},
            extensions={"sni_hostname": link.host, "timeout": _TIMEOUTS},
        )
        try:
            return await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if not left:
                raise
    raise refused(HOST)


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)  # the certificates that come with httpx,
    context.load_default_certs()  # those of the system,
    if ca_file is not None:
        context.load_verify_locations(ca_file)  # and the operator's
    return context
