"""Opening wires: to a path, or to the first of a name's addresses that takes a connection.

Addresses are tried as RFC 8305 says, the next one when the last has failed or been silent for a moment, on plain
non-blocking sockets: neither loop's own way does that and lets the caller say who owns the stream from its first byte.
"""

import errno
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

from illm.loop.asyncio_wire import AsyncioWire
from illm.loop.stream_wire import StreamWire
from illm.loop.tasks import hold
from illm.loop.wake import native_loop
from illm.loop.wire import Receiver, Wire

logger = logging.getLogger("illm.loop")

STAGGER = 0.25
"""Seconds until the next address is tried beside the last one."""
_FULL = 0.01
"""Seconds until a unix socket whose queue is full is tried again: nothing tells when it has room."""

_Target = tuple[int, Any]


async def open_tcp(receiver: Receiver, host: str, port: int, tls: ssl.SSLContext | None = None) -> Wire:
    """Open a wire to a host.  It belongs to the loop, not to the task that opens it: its owner must `abort` it.

    Args:
        receiver: its owner; it may be called before this returns.
        host, port: a name or an address, and where it listens.
        tls: whom to trust, where TLS is spoken; the host's name is checked.

    Raises:
        OSError: no address took the connection, or the handshake failed (`ssl.SSLError` is one).
        anyio.BrokenResourceError, anyio.EndOfStream: the other side went in the middle of the handshake.
    """
    return await _wired(await _connect_any(await _resolve(host, port)), receiver, host, tls)


async def open_unix(receiver: Receiver, path: str) -> Wire:
    """Open a wire to a unix socket.  Raises `OSError`; see `open_tcp`."""
    return await _wired(await _connect((socket.AF_UNIX, path)), receiver, None, None)


async def _wired(raw: socket.socket, receiver: Receiver, host: str | None, tls: ssl.SSLContext | None) -> Wire:
    loop = native_loop()
    try:
        if loop is None:
            stream: ByteStream = await SocketStream.from_socket(raw)
            if tls is not None:
                stream = await TLSStream.wrap(stream, hostname=host, ssl_context=tls)
            driven = StreamWire(stream, receiver)
            # Not in a task group: one that is cancelled would tell the owner that the connection broke.
            hold(partial(_run, driven), "illm:wire")
            return driven
        if raw.family == socket.AF_UNIX:
            _, wire = await loop.create_unix_connection(lambda: AsyncioWire(receiver), sock=raw)
        else:
            name = host if tls is not None else None
            _, wire = await loop.create_connection(
                lambda: AsyncioWire(receiver), sock=raw, ssl=tls, server_hostname=name
            )
    except BaseException:
        raw.close()
        raise
    return wire


async def _run(wire: StreamWire) -> None:
    try:
        await wire.run()
    except Exception:  # from an owner that broke its promise; the loop must not end of it
        logger.exception("a connection's owner failed")


async def _resolve(host: str, port: int) -> Sequence[_Target]:
    try:
        address = ip_address(host)
    except ValueError:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        first = found[0][0]
        one = [(family, where) for family, *_, where in found if family == first]
        other = [(family, where) for family, *_, where in found if family != first]
        return [target for target in chain.from_iterable(zip_longest(one, other)) if target is not None]
    return [(socket.AF_INET6 if address.version == 6 else socket.AF_INET, (host, port))]


async def _connect_any(targets: Sequence[_Target]) -> socket.socket:
    if len(targets) == 1:
        return await _connect(targets[0])
    opened: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(target: _Target, failed: anyio.Event) -> None:
        try:
            opened.append(await _connect(target))
        except OSError as error:
            errors.append(error)
            failed.set()
        else:
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for target in targets:
                failed = anyio.Event()
                tasks.start_soon(attempt, target, failed)
                with anyio.move_on_after(STAGGER):
                    await failed.wait()
    except BaseException:
        for raw in opened:
            raw.close()
        raise
    for raw in opened[1:]:
        raw.close()
    if not opened:
        raise errors[0]
    return opened[0]


async def _connect(target: _Target) -> socket.socket:
    family, address = target
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        while True:
            try:
                raw.connect(address)
            except BlockingIOError as error:
                if error.errno == errno.EAGAIN and family == socket.AF_UNIX:
                    await anyio.sleep(_FULL)
                    continue
                await anyio.wait_writable(raw)
                code = raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code)) from None
            return raw
    except BaseException:
        raw.close()
        raise
