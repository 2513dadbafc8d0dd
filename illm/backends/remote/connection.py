"""How a connection to an upstream server comes about, and what its going wrong is called.  It knows no HTTP.

What a network can do comes out as `UnreachableError` here; what it does to an open wire its owner is told.
"""

import errno
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

import anyio

from illm.backends.remote.server import Server
from illm.loop.connect import open_tcp, open_unix
from illm.loop.wake import Wake
from illm.loop.wire import Receiver, Wire

_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# The first that fits; what operators read in /healthz and the log, so no addresses.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (socket.gaierror, "the name does not resolve"),
    (ssl.SSLCertVerificationError, "the certificate is not trusted"),
    (ssl.SSLError, "the TLS handshake failed"),
    (FileNotFoundError, "no such socket"),
    (PermissionError, "not permitted"),
    (Exception, "no connection"),
)


class UnreachableError(Exception):
    """No connection came about.

    Args:
        reason: a few words without an address.
        ours: the fault is this machine's (no file descriptors left, say) and says nothing about the server.
    """

    def __init__(self, reason: str, *, ours: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.ours = ours


async def connect(server: Server, receiver: Receiver) -> Wire:
    """Open a connection, which the receiver has to close.

    Args:
        server: where to.
        receiver: who owns it; it may be called before this returns.

    Raises:
        UnreachableError: whatever came between.
    """
    address = server.address
    try:
        if address.socket is not None:
            return await open_unix(receiver, address.socket)
        return await open_tcp(receiver, address.host, address.port, server.tls if address.tls else None)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
        raise UnreachableError(reason, ours=getattr(error, "errno", None) in _OURS) from error


def speaking(wire: Wire) -> Callable[[], bool]:
    """Return what says whether something has come on an idle connection that its owner has not been told of yet.

    The loop tells of it in its next round only, and until then somebody may hand over a request: what came would be
    taken for its answer.
    """
    raw: Any = wire.socket
    if raw is None:
        return bool  # False
    descriptor = raw.fileno()
    if hasattr(select, "poll"):  # `select` cannot look at descriptors above 1023
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        look = poll.poll
        return lambda: bool(look(0))
    return lambda: bool(select.select([descriptor], [], [], 0)[0])


class Connection:
    """A connection whose owner waits for what comes: a probe's, which has nothing else to do."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._ended: bool | None = None
        self._changed = Wake()
        self._wire: Wire | None = None

    async def open(self, server: Server) -> None:
        """Open it, once.  Raises as `connect`."""
        self._wire = await connect(server, self)

    def send(self, data: bytes) -> None:
        """Write everything."""
        if self._wire is not None:
            self._wire.write(data)

    async def receive(self) -> bytes | None:
        """Return what has come: `b""` after a proper end of the stream, None where the connection broke."""
        while not self._data:
            if self._ended is not None:
                return None if self._ended else b""
            await self._changed.wait()
        return self._data.pop(0)

    def close(self) -> None:
        """Close at once, without a TLS farewell."""
        if self._wire is not None:
            self._wire.abort()

    # See `Receiver`

    def received(self, data: bytes) -> None:
        """Keep it."""
        self._data.append(data)
        self._changed.set()

    def ended(self, broken: bool) -> None:
        """Nothing more will come."""
        self._ended = broken
        self._changed.set()

    def drained(self) -> None:
        """A probe writes little."""

    def closed(self) -> None:
        """`ended` has said it."""
