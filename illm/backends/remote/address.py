"""Where a server is, as the operator writes it, and what a request to it says of that.

`http://host:port/prefix`, `https://...`, `unix:///path/to/socket` and `http+unix://%2Fpath%2Fto%2Fsocket/prefix`; a
trailing `/v1` says nothing, as the paths of OpenAI-style requests begin with it.  No key in the address: one there
ends up in logs.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_PREFIX = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]+)*")
_NAME = re.compile(r"[A-Za-z0-9\-._]+")


@dataclass(frozen=True, slots=True)
class Address:
    """One server.

    Args:
        host, port: where to connect; empty and 0 for a unix socket.
        tls: whether it speaks TLS; its certificate must then be for `host`.
        socket: path of a unix socket, else None.
        prefix: what comes before every path, without a trailing slash.
    """

    host: str
    port: int
    tls: bool = False
    socket: str | None = None
    prefix: str = ""

    @property
    def authority(self) -> bytes:
        """The value of the `host` field."""
        if self.socket is not None:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == _PORTS["https" if self.tls else "http"]
        return (host if usual else f"{host}:{self.port}").encode("ascii")

    def target(self, path: str) -> str:
        """Return the request target for a path below the base URL."""
        return self.prefix + path

    def __str__(self) -> str:
        """Return it for the log."""
        if self.socket is not None:
            return f"unix://{self.socket}{self.prefix}"
        return f"http{'s' if self.tls else ''}://{self.authority.decode()}{self.prefix}"


def parse_address(text: str) -> Address:
    """Read a base URL.

    Raises:
        ValueError: with what is wrong, in words for the operator; never repeats what could be a password.
    """
    if not text.isprintable() or " " in text:  # some of which `urlsplit` would drop without a word
        raise ValueError("must not hold spaces or control characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("must have a host: an IPv6 address stands in brackets") from None
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password; a key has an option of its own")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must not have a query or a fragment")
    if parts.scheme == "unix":
        if parts.netloc or len(parts.path) < 2:
            raise ValueError("must be unix:///path/to/socket")
        return Address("", 0, socket=unquote(parts.path))
    prefix = _prefix(parts.path)
    if parts.scheme == "http+unix":
        path = unquote(parts.netloc)
        if not path.startswith("/") or path == "/":
            raise ValueError("must be http+unix://%2Fpath%2Fto%2Fsocket")
        return Address("", 0, socket=path, prefix=prefix)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must be an http://, https:// or unix:// address")
    try:
        port = parts.port
    except ValueError:  # whose words repeat what stands there, which may be half of a password
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must have a port between 1 and 65535, or none")
    return Address(
        _host(parts.hostname),
        port or _PORTS[parts.scheme],
        tls=parts.scheme == "https",
        prefix=prefix,
    )


def _host(host: str) -> str:
    if ":" in host:  # urlsplit has checked what is in brackets
        if "%" in host:
            raise ValueError("must not have an IPv6 zone")
        return host
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("must have a host name of letters, digits, dots and hyphens") from None
    if _NAME.fullmatch(host) is None:
        raise ValueError("must have a host name of letters, digits, dots and hyphens")
    return host


def _prefix(path: str) -> str:
    path = path.rstrip("/").removesuffix("/v1").rstrip("/")
    if _PREFIX.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise ValueError("must have a path that can be a prefix, or none")
    return path
