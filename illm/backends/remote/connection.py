"""One upstream connection: opened, written, read, looked at before reuse, closed.  It knows no HTTP.

What a network can do comes out as three things only: `UnreachableError` from `connect`, False from `send`, and no
bytes from `receive`.
"""

import errno
import select
import socket
import ssl
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from illm.backends.remote.server import Server

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_READ = 64 * 1024
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


class Connection:
    """An open stream.

    Args:
        stream: closed by `close`, whatever happened before.
    """

    __slots__ = ("_socket", "_stream")

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._socket: Any = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610  # not Django's

    async def send(self, data: bytes) -> bool:
        """Write everything; False where the connection is gone.  What the server said before it went may be left."""
        try:
            await self._stream.send(data)
        except _GONE:
            return False
        return True

    async def receive(self) -> bytes | None:
        """Return what has come: `b""` after a proper end of the stream, None where the connection broke."""
        try:
            return await self._stream.receive(_READ)
        except anyio.EndOfStream:
            return b""
        except _GONE:
            return None

    @property
    def stale(self) -> bool:
        """Whether an idle connection must not be reused: it was closed, or said something that nobody asked for."""
        return self._socket is not None and _readable(self._socket)

    async def close(self) -> None:
        """Close at once, without a TLS farewell; the server sees a closed connection and stops its work."""
        await anyio.aclose_forcefully(self._stream)


async def connect(server: Server) -> Connection:
    """Open a connection.

    Raises:
        UnreachableError: whatever came between.
    """
    address = server.address
    try:
        if address.socket is not None:
            return Connection(await anyio.connect_unix(address.socket))
        if not address.tls:
            stream: ByteStream = await anyio.connect_tcp(address.host, address.port)
        else:
            stream = await anyio.connect_tcp(
                address.host,
                address.port,
                ssl_context=server.tls,
                tls_hostname=address.host,
                tls_standard_compatible=False,
            )
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        cause = _cause(error)
        reason = next(reason for kind, reason in _REASONS if isinstance(cause, kind))
        raise UnreachableError(reason, ours=getattr(cause, "errno", None) in _OURS) from error
    # A request is written at once and then waited on: Nagle's algorithm could only delay it.
    stream.extra(SocketAttribute.raw_socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: S610
    return Connection(stream)


def _cause(error: BaseException) -> BaseException:
    # anyio wraps a failure to connect, and several of them in a group.
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif type(error) is OSError and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error


def _readable(raw: Any) -> bool:
    descriptor = raw.fileno()
    if descriptor < 0:
        return True
    if hasattr(select, "poll"):  # `select` cannot look at descriptors above 1023
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([descriptor], [], [], 0)[0])
