"""The ASGI scope of a request: a pure function of its head and its connection."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from illm.http11 import Head, split_target

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Register = Callable[[Callable[[], None]], None]

Address = tuple[str, int | None]


class Ends(NamedTuple):
    """The two addresses of a connection, as ASGI wants them; a Unix socket's server is its path and `None`."""

    client: Address | None
    server: Address | None


def ends_of(raw: Any) -> Ends:
    """Return the addresses of a connected socket; None stands for one that is none, or that has closed."""
    try:
        remote, local = (raw.getpeername(), raw.getsockname()) if raw is not None else (None, None)
    except (OSError, ValueError):  # it has left already; ValueError is uvloop's word for that
        remote = local = None
    # The client of a Unix socket has no name.
    return Ends(address_of(remote) if remote else None, address_of(local) if local else None)


def address_of(address: object) -> Address:
    """Return a socket's address as ASGI wants it."""
    match address:
        case (str(host), int(port), *_):
            return host, port
        case bytes(path):
            return path.decode(errors="surrogateescape"), None
        case _:
            return str(address), None


def http_scope(head: Head, ends: Ends, state: dict[str, Any], register: Register, root_path: str) -> Scope:
    """Build the scope.

    Args:
        head: the request.
        ends: the connection's addresses.
        state: the lifespan's state; the request gets a copy.
        register: what the extension `illm.disconnect` offers.
        root_path: where the application is mounted.

    Raises:
        Refusal: if the target cannot be understood.
    """
    method, target, version, headers, _, _, _ = head
    path, raw_path, query, authority = split_target(method, target)
    if authority is not None:
        # RFC 9112 3.2.2: an absolute target's authority replaces whatever Host says.
        headers = [(b"host", authority), *((k, v) for k, v in headers if k != b"host")]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version,
        "method": method,
        "scheme": "http",
        "path": root_path + path if root_path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": headers,
        "client": ends.client,
        "server": ends.server,
        "state": state.copy(),
        "extensions": {"illm.disconnect": {"register": register}},
    }
