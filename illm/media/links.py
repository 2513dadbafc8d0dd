"""What may stand in the address of an image, whether a client or a redirect gave it.

There is one reading of a URL, httpx's: what is checked here is the very object that the request is made from, so no
second parser can disagree about where the host ends.
"""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import httpx

from illm.media.addresses import Address, read_address
from illm.media.refusals import HOST, NO_ANSWER, refused

MAX_URL = 8192
"""Characters of an address."""

_PORTS = {"http": 80, "https": 443}
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LOOKS_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class Link:
    """An address that may be looked up.

    Args:
        url: without user, password or fragment; its host is `host`.
        host: an ASCII name in lower case without a final dot, or an address without brackets.
        port: always given.
        literal: the address, where one stands in place of a name.
    """

    url: httpx.URL
    host: str
    port: int
    literal: Address | None

    @property
    def authority(self) -> str:
        """The value of the `host` field: the name that was asked for, whichever address answers to it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.url.scheme] else f"{host}:{self.port}"

    def at(self, address: Address) -> httpx.URL:
        """Return the URL with an address in the name's place: whoever connects has nothing left to resolve."""
        return self.url.copy_with(host=str(address))


def read_link(text: str, ports: AbstractSet[int]) -> Link:
    """Read a client's address.

    Args:
        text: as it came.
        ports: those that may be connected to.

    Raises:
        GatewayError: it is no http or https address, or one of a kind that is not fetched.
    """
    if len(text) > MAX_URL:
        raise refused(f"the URL is longer than {MAX_URL} characters")
    try:
        return _checked(httpx.URL(text), ports)
    except (httpx.InvalidURL, ValueError):  # UnicodeError is one, for names
        raise refused("the URL is not valid") from None


def follow(link: Link, location: str, ports: AbstractSet[int]) -> Link:
    """Read where a redirect leads, as strictly as what a client writes.  Raises as `read_link`."""
    try:
        if len(location) > MAX_URL:
            raise refused(NO_ANSWER)
        return _checked(link.url.join(location), ports)
    except (httpx.InvalidURL, ValueError):
        raise refused(NO_ANSWER) from None


def _checked(url: httpx.URL, ports: AbstractSet[int]) -> Link:
    if url.scheme not in _PORTS:
        raise refused("only http, https and data URLs are fetched")
    if url.userinfo:
        raise refused("a URL with a user or a password is not fetched")
    port = _PORTS[url.scheme] if url.port is None else url.port
    if port not in ports:
        raise refused("the port of the URL is not allowed")
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    literal = _literal(host)
    if literal is None and (len(host) > 253 or _NAME.fullmatch(host) is None):
        raise refused(HOST)
    return Link(url.copy_with(host=host, fragment=None), host, port, literal)


def _literal(host: str) -> Address | None:
    if ":" not in host and _LOOKS_NUMERIC.fullmatch(host) is None:
        return None
    # 2130706433, 0x7f.1 and 127.1 are addresses to the C library; here only the usual spelling is.
    address = read_address(host)
    if address is None:
        raise refused(HOST)
    return address
