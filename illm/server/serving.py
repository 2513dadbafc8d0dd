"""Binding, accepting, watching deadlines, and stopping without dropping anyone.

The order of a life: bind (the kernel queues clients from here on), start the application, accept; on `shutdown` stop
accepting, tell the application, close idle connections, wait for the running requests, then shut the application down.
"""

import ipaddress
import logging
import math
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
from anyio.abc import ByteStream, TaskGroup, TaskStatus

from illm.http11.engine import EngineFactory, find_engine
from illm.loop.listening import Owner, accept_from, run_stream
from illm.server.binding import addresses, bind, close
from illm.server.connection import Connection
from illm.server.lifespan import Lifespan, LifespanFailed
from illm.server.limits import Limits
from illm.server.scope import Application
from illm.server.service import Service
from illm.server.turned_away import PATIENCE, TurnedAway

logger = logging.getLogger("illm.server")

_DEFAULTS = Limits()


async def serve(
    app: Application,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    limits: Limits = _DEFAULTS,
    root_path: str = "",
    http: str = "auto",
    sockets: Sequence[socket.socket] | None = None,
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
        http: who reads requests beside our own check: `auto` (nobody), `h11` or `httptools`.
        sockets: listening and not blocking, instead of all addresses; closed in any case.
        shutdown: set it for a graceful stop.
        task_status: started with the bound addresses once requests are accepted.

    Raises:
        OSError: the address cannot be bound.
        ImportError: the chosen reader is not installed.
        LifespanFailed: the application did not start, broke while running, or did not shut down.
    """
    stop = shutdown or anyio.Event()
    if sockets is None:
        sockets = await _bind(host, port, uds, limits.backlog)
    try:
        lifespan = Lifespan(app, stop)
        engine = find_engine(http)
        where = addresses(sockets)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lifespan.run)
            if await lifespan.startup():
                server = Server(app, limits, root_path, lifespan.state, engine)
                await server.run(sockets, stop, lambda: task_status.started(where))
                await lifespan.shutdown(limits.drain)
            tasks.cancel_scope.cancel()
    finally:
        close(sockets)
    if lifespan.failure is not None:
        raise LifespanFailed(lifespan.failure)


class Server:
    """The connections of one server, and the one clock they all look at."""

    def __init__(
        self,
        app: Application,
        limits: Limits,
        root_path: str,
        state: dict[str, Any],
        engine: EngineFactory | None = None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._root_path = root_path
        self._state = state
        self._engine = engine
        self._connections: set[Connection] = set()
        self._turned_away: set[TurnedAway] = set()
        self._draining = False
        self._empty = anyio.Event()

    async def run(
        self, sockets: Sequence[socket.socket], stop: anyio.Event, started: Callable[[], None] = lambda: None
    ) -> None:
        """Accept from `sockets` (which are closed) until `stop`, then drain."""
        backlog = self._limits.backlog
        try:
            async with anyio.create_task_group() as tasks:
                service = self.service(tasks)
                tasks.start_soon(self.watch, service)
                async with anyio.create_task_group() as accepting:
                    accept = partial(accept_from, sockets, lambda: self.owner(service), tasks, backlog=backlog)
                    accepting.start_soon(accept)
                    started()
                    await stop.wait()
                    accepting.cancel_scope.cancel()
                await self.drain(service)
                tasks.cancel_scope.cancel()
        finally:
            for one in list(self._turned_away):  # they have no task that ends with the others
                one.check(math.inf)

    def service(self, tasks: TaskGroup) -> Service:
        """Return what connections that run in `tasks` share."""
        return Service(self._app, self._limits, self._engine, self._root_path, self._state, tasks, anyio.current_time())

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
        for one in list(self._turned_away):
            one.check(now)

    def owner(self, service: Service) -> Owner:
        """Return who will own one more connection."""
        if len(self._connections) < self._limits.connections:
            connection = Connection(service, self._gone)
            self._connections.add(connection)
            return connection
        room = len(self._turned_away) < self._limits.connections
        one = TurnedAway(self._limits.retry_after, service.now + PATIENCE if room else None, self._turned_away.discard)
        self._turned_away.add(one)
        return one

    async def handle(self, stream: ByteStream, service: Service) -> None:
        """Serve a connection that is no socket of ours; owns `stream`."""
        await run_stream(stream, self.owner(service))

    async def drain(self, service: Service) -> None:
        """Let running requests finish, for a limited time; whoever is idle goes now."""
        service.draining = self._draining = True
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

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._draining and not self._connections:
            self._empty.set()


async def _bind(host: str | None, port: int, uds: str | None, backlog: int) -> list[socket.socket]:
    if uds is None and host is not None and not _is_address(host):  # looking a name up may take long
        return await anyio.to_thread.run_sync(bind, host, port, uds, backlog)
    return bind(host, port, uds, backlog)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
