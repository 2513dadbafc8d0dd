"""Binding, accepting, watching deadlines, and stopping without dropping anyone.

The order of a life: bind (the kernel queues clients from here on), start the application, accept; on `shutdown` stop
accepting, tell the application, close idle connections, wait for the running requests, then shut the application down.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketListener, TaskGroup, TaskStatus

from illm.http11 import ResponseEncoder
from illm.server.connection import Connection
from illm.server.faults import fault_body, fault_headers
from illm.server.lifespan import Lifespan, LifespanFailed
from illm.server.limits import Limits
from illm.server.scope import Address, Application, Ends
from illm.server.service import Service

logger = logging.getLogger("illm.server")

_BUSY_SECONDS = 1.0
_ACCEPT_PAUSE = 0.1
_DEFAULTS = Limits()


async def serve(
    app: Application,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    limits: Limits = _DEFAULTS,
    root_path: str = "",
    shutdown: anyio.Event | None = None,
    task_status: TaskStatus[list[tuple[str, int]]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `shutdown` is set, then drain.  Cancelling ends at once.

    Args:
        app: any ASGI 3 application.
        host: an address or name; `None` for every interface.
        port: 0 lets the system choose.
        uds: a Unix socket's path, instead of host and port.
        limits: see `Limits`.
        root_path: where the application is mounted.
        shutdown: set it for a graceful stop.
        task_status: started with the bound addresses once requests are accepted.

    Raises:
        OSError: the address cannot be bound.
        LifespanFailed: the application did not start, broke while running, or did not shut down.
    """
    stop = shutdown or anyio.Event()
    listeners = await _bind(host, port, uds, limits.backlog)
    lifespan = Lifespan(app, stop)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lifespan.run)
            if await lifespan.startup():
                server = Server(app, limits, root_path, lifespan.state)
                await server.run(listeners, stop, lambda: task_status.started(_addresses(listeners)))
                await lifespan.shutdown(limits.drain)
            tasks.cancel_scope.cancel()
    finally:
        for listener in listeners:
            await anyio.aclose_forcefully(listener)
    if lifespan.failure is not None:
        raise LifespanFailed(lifespan.failure)


class Server:
    """The connections of one server, and the one clock they all look at."""

    def __init__(self, app: Application, limits: Limits, root_path: str, state: dict[str, object]) -> None:
        self._app = app
        self._limits = limits
        self._root_path = root_path
        self._state = state
        self._connections: set[Connection] = set()
        self._turned_away = 0
        self._empty = anyio.Event()

    async def run(
        self, listeners: list[SocketListener], stop: anyio.Event, started: Callable[[], None] = lambda: None
    ) -> None:
        """Accept from `listeners` (which are closed) until `stop`, then drain."""
        async with anyio.create_task_group() as tasks:
            service = self.service(tasks)
            tasks.start_soon(self.watch, service)
            async with anyio.create_task_group() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, service)
                started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            for listener in listeners:
                await listener.aclose()
            await self.drain(service)
            tasks.cancel_scope.cancel()

    def service(self, tasks: TaskGroup) -> Service:
        """Return what connections that run in `tasks` share."""
        return Service(self._app, self._limits, self._root_path, self._state, tasks, anyio.current_time())

    async def watch(self, service: Service) -> None:
        """Keep the clock, and the deadlines of all connections."""
        while True:
            await anyio.sleep(self._limits.tick)
            self.check(service, anyio.current_time())

    def check(self, service: Service, now: float) -> None:
        """Say what time it is, in seconds on the loop's clock: what is overdue ends."""
        service.now = now
        for connection in list(self._connections):
            connection.check(now)

    async def handle(self, stream: ByteStream, service: Service) -> None:
        """Serve one connection; owns `stream`."""
        if len(self._connections) >= self._limits.connections:
            await self._turn_away(stream)
            return
        connection = Connection(stream, _ends(stream), service)
        self._connections.add(connection)
        try:
            await connection.run()
        except Exception:
            logger.exception("a connection failed")
        finally:
            self._connections.discard(connection)
            if service.draining and not self._connections:
                self._empty.set()

    async def drain(self, service: Service) -> None:
        """Let running requests finish, for a limited time; whoever is idle goes now."""
        service.draining = True
        begin_drain = getattr(self._app, "begin_drain", None)
        if callable(begin_drain):
            begin_drain()
        if not self._connections:
            return
        for connection in list(self._connections):
            connection.drain()
        with anyio.move_on_after(self._limits.drain) as scope:
            await self._empty.wait()
        if scope.cancelled_caught:
            logger.warning("%d requests did not finish within %g s", len(self._connections), self._limits.drain)

    async def _accept(self, listener: SocketListener, service: Service) -> None:
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as exc:
                # Out of descriptors, or a client that left in the queue: neither may end the server.
                # (On trio anyio wraps what the system said.)
                logger.warning("accepting a connection failed: %s", exc.__cause__ or exc)
                await anyio.sleep(_ACCEPT_PAUSE)
            else:
                service.tasks.start_soon(self.handle, stream, service)

    async def _turn_away(self, stream: ByteStream) -> None:
        encoder = ResponseEncoder("GET", "1.1", keep_alive=False)
        retry = str(self._limits.retry_after).encode()
        reason = "too many connections"
        encoder.start(503, [*fault_headers(503, reason), (b"retry-after", retry)])
        answer = encoder.body(fault_body(503, reason), more=False)
        # Those who are being turned away take descriptors too.
        patience = _BUSY_SECONDS if self._turned_away < self._limits.connections else 0
        self._turned_away += 1
        try:
            with anyio.move_on_after(patience), suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError):
                await stream.send(answer)
                await stream.send_eof()
                while True:
                    await stream.receive()
        finally:
            self._turned_away -= 1
            await anyio.aclose_forcefully(stream)


async def _bind(host: str | None, port: int, uds: str | None, backlog: int) -> list[SocketListener]:
    if uds is not None:
        return [await anyio.create_unix_listener(uds, backlog=backlog)]
    multi = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=backlog)
    return [_socket_listener(listener) for listener in multi.listeners]


def _socket_listener(listener: Listener[object]) -> SocketListener:
    if not isinstance(listener, SocketListener):
        raise TypeError("not a socket listener")
    return listener


def _addresses(listeners: list[SocketListener]) -> list[tuple[str, int]]:
    addresses = [_local(listener) for listener in listeners]
    return [(host, port or 0) for host, port in addresses]


def _local(listener: SocketListener) -> Address:
    return _address(listener.extra(SocketAttribute.local_address))  # noqa: S610  # not Django's


def _ends(stream: ByteStream) -> Ends:
    try:
        remote = stream.extra(SocketAttribute.remote_address, None)  # noqa: S610  # not Django's
        local = stream.extra(SocketAttribute.local_address, None)  # noqa: S610
    except (OSError, ValueError):  # it has left already; ValueError is uvloop's word for that
        remote = local = None
    # The client of a Unix socket has no name.
    return Ends(_address(remote) if remote else None, _address(local) if local else None)


def _address(address: object) -> Address:
    match address:
        case (str(host), int(port), *_):
            return host, port
        case bytes(path):
            return path.decode(errors="surrogateescape"), None
        case _:
            return str(address), None
