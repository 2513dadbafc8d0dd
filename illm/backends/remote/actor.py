"""The actor of one backend: its servers' pools, and how calls get to them.

No task stands between the mailbox and the workers.  A call is handed over inside `Ref.call` (`Inbox.direct`), and what
had to wait is fetched by the workers themselves; a dispatcher's task would cost every request a hop.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio.abc import TaskGroup

from illm.actors.call import Call
from illm.actors.inbox import Inbox
from illm.backends.remote.address import Address
from illm.backends.remote.deadlines import Phase, Timeouts, late
from illm.backends.remote.job import Job
from illm.backends.remote.pool import Pool
from illm.backends.remote.probe import watch_health
from illm.backends.remote.replicas import pick
from illm.backends.remote.server import Server, trust
from illm.backends.remote.upstream import Dialect
from illm.core.requests import Request
from illm.errors import GatewayError, Kind
from illm.loop.wake import Wake


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What the operator said about one backend.

    Args:
        name: what requests may call it where they name no model of its; its framework, mostly.
        dialect: what its servers speak.
        addresses: its servers, one or more replicas.
        key: the bearer key they want.
        ca_file: certificates to trust instead of the system's.
        timeouts: of every exchange.
        connections: how many there may be to one server.
        model: the model of a request that names none; else the first that a server lists.
    """

    name: str
    dialect: Dialect
    addresses: Sequence[Address]
    key: str | None = None
    ca_file: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    connections: int = 2048
    model: str | None = None


class Board:
    """What is known about a backend's servers: written by its actor, read by everybody; outlives a crash."""

    def __init__(self, upstream: Upstream) -> None:
        self._chosen = () if upstream.model is None else (upstream.model,)
        self.pools: Sequence[Pool] = ()
        self.models: Sequence[str] = self._chosen
        """The models its servers listed when they were last asked, the operator's choice first.

        Those of a server that went down stay: a request for one is told that, and not sent elsewhere.
        """

    def note_models(self) -> None:
        """Note what the servers list now."""
        listed = dict.fromkeys(name for pool in self.pools for name in pool.models)
        if listed:
            self.models = tuple(dict.fromkeys((*self._chosen, *listed)))

    def default(self) -> str | None:
        """Return the model of a request that names none, if there is an obvious one."""
        return next(iter(self.models), None)

    def describe(self) -> dict[str, Any]:
        """Return what `/healthz` shows.  Replicas have numbers there: anybody may read it."""
        return {"replicas": [_described(pool) for pool in self.pools], "models": list(self.models)}


class RemoteActor:
    """See `illm.actors.actor.Actor`.

    Args:
        upstream: what to talk to.
        board: where to show what it knows.
    """

    def __init__(self, upstream: Upstream, board: Board) -> None:
        self._upstream = upstream
        self._board = board
        self._pools: list[Pool] = []
        self._inbox: Inbox | None = None
        self._tasks: TaskGroup | None = None
        self._verdict = anyio.Event()
        self._working = Wake()

    async def run(self, inbox: Inbox, ready: Callable[[], None]) -> None:
        """See `Actor.run`.  It is ready once a server is up, or all have been asked."""
        servers = self._servers()
        self._inbox = inbox
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                upstream = self._upstream
                self._pools = [
                    Pool(server, upstream.dialect, upstream.timeouts, upstream.connections, tasks, self)
                    for server in servers
                ]
                self._board.pools = self._pools
                for pool in self._pools:
                    tasks.start_soon(watch_health, pool)
                await self._verdict.wait()
                inbox.direct, inbox.watched = self.hand_over, True
                ready()
                self.judged()
                await self._watch_deadlines(inbox)
        finally:
            inbox.direct = inbox.down = None
            inbox.watched = False
            self._inbox = None
            for pool in self._pools:
                pool.close()

    def hand_over(self, call: Call) -> bool:
        """Give a call to a worker; False where none may be had, so that it must wait."""
        pool = None if self._ending else pick(self._pools)
        if pool is None:
            return False
        pool.take(Job(call, self._named(call.request)))
        return True

    # What the pools ask of it

    def next_job(self) -> Job | None:
        """See `Dispatch.next_job`."""
        inbox = self._inbox
        if inbox is None or not inbox.waiting or self._ending:
            return None
        call = inbox.take_nowait()
        return None if call is None else Job(call, self._named(call.request))

    def replace(self, job: Job, failed: Pool) -> bool:
        """See `Dispatch.replace`."""
        pool = None if job.moved or self._ending else pick(self._pools, avoid=failed)
        if pool is None:
            return False
        job.moved = True
        pool.take(job)
        return True

    def refill(self) -> None:
        """See `Dispatch.refill`."""
        while (pool := pick(self._pools)) is not None and (job := self.next_job()) is not None:
            pool.take(job)

    def listed(self) -> None:
        """See `Dispatch.listed`."""
        self._board.note_models()

    def working(self) -> None:
        """See `Dispatch.working`."""
        self._working.set()

    def judged(self) -> None:
        """See `Dispatch.judged`."""
        up = [pool for pool in self._pools if pool.health.up]
        if up or all(pool.health.known for pool in self._pools):
            self._verdict.set()
        if self._inbox is None or self._inbox.direct is None:
            return
        self._inbox.down = None if up else self._unreachable()
        if up:
            self.refill()
        else:
            self._inbox.refuse(self._unreachable())

    @property
    def _ending(self) -> bool:
        # Workers that end because the actor does must not be given the next call.
        return self._tasks is None or self._tasks.cancel_scope.cancel_called

    async def _watch_deadlines(self, inbox: Inbox) -> None:
        timeouts = self._upstream.timeouts
        unanswered = late(Phase.FIRST_BYTE, self._upstream.dialect.framework)
        while True:
            if not any(pool.workers for pool in self._pools):
                await self._working.wait()
            await anyio.sleep(timeouts.tick)
            now = anyio.current_time()
            for pool in self._pools:
                pool.check(now)
            if inbox.waiting:
                inbox.overdue(now, timeouts.first_byte, unanswered)

    def _servers(self) -> list[Server]:
        upstream, tls = self._upstream, None
        if any(address.tls for address in upstream.addresses):
            tls = _trust(upstream)
        return [
            Server(upstream.dialect.framework, number, address, tls, upstream.key)
            for number, address in enumerate(upstream.addresses)
        ]

    def _named(self, request: Request) -> Request:
        if request.model not in (None, self._upstream.name):
            return request
        model = self._board.default()
        return request if model is None else replace(request, model=model)

    def _unreachable(self) -> GatewayError:
        return GatewayError(Kind.UNREACHABLE, f"The backend {self._upstream.dialect.framework!r} cannot be reached")


def _trust(upstream: Upstream) -> ssl.SSLContext:
    try:
        return trust(upstream.ca_file)
    except OSError as error:
        raise GatewayError(
            Kind.NOT_CONFIGURED, "The certificates that upstream servers are checked against cannot be read"
        ) from error


def _described(pool: Pool) -> dict[str, Any]:
    health = pool.health
    shown: dict[str, Any] = {
        "state": "ready" if health.up else "down" if health.known else "starting",
        "connections": pool.connections,
        "active": pool.busy,
    }
    if health.problem is not None:
        shown["problem"] = health.problem
    return shown
