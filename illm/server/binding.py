"""Listening sockets: bound before anything else, so that the kernel queues clients while the application starts."""

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from illm.server.scope import address_of

_ABSENT = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""What a system without IPv6, or without it on that interface, answers."""


def bind(host: str | None, port: int, uds: str | None, backlog: int, *, shared: bool = False) -> list[socket.socket]:
    """Return listening sockets, one for each address; the caller closes them.

    Args:
        host: an address or a name, which is looked up here; None for every interface.
        port: 0 lets the system choose, one port for all addresses.
        uds: a Unix socket's path, instead; a socket there that nobody listens on any more is replaced.
        backlog: connections the kernel may hold.
        shared: let other sockets be bound to the same address, where the system spreads connections among them.

    Raises:
        OSError: an address cannot be bound.
    """
    if uds is not None:
        return [_bind_path(uds, backlog)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            if port == 0 and bound:
                address = (address[0], bound[0].getsockname()[1], *address[2:])
            try:
                bound.append(_bind_address(family, address, backlog, shared=shared))
            except OSError as exc:
                if exc.errno not in _ABSENT:
                    raise
                absent = exc
    except BaseException:
        close(bound)
        raise
    if not bound and absent is not None:
        raise absent
    return bound


def addresses(sockets: Sequence[socket.socket]) -> list[tuple[str, int]]:
    """Return where they listen; a Unix socket's port is 0."""
    return [(host, port or 0) for host, port in (address_of(raw.getsockname()) for raw in sockets)]


def close(sockets: Sequence[socket.socket]) -> None:
    """Stop listening."""
    for raw in sockets:
        raw.close()


def _bind_address(family: int, address: tuple[object, ...], backlog: int, *, shared: bool) -> socket.socket:
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let another program take the port
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        raw.setblocking(False)
        raw.bind(address)
        raw.listen(backlog)
    except BaseException:
        raw.close()
        raise
    return raw


def _bind_path(path: str, backlog: int) -> socket.socket:
    if _abandoned(path):
        Path(path).unlink(missing_ok=True)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.bind(path)
        raw.listen(backlog)
    except BaseException:
        raw.close()
        raise
    return raw


def _abandoned(path: str) -> bool:
    """Whether there is a socket nobody listens on: what a server leaves behind, since closing removes no path."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        return asking.connect_ex(path) == errno.ECONNREFUSED  # a full queue answers otherwise: somebody owns it
