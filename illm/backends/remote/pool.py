"""The workers of one server: who rests, who may be started.  Everything here is synchronous, so no lock is needed."""

import logging
from typing import Protocol

from anyio.abc import TaskGroup

from illm.backends.remote.deadlines import Timeouts
from illm.backends.remote.health import Health
from illm.backends.remote.job import Job, blunder
from illm.backends.remote.server import Server
from illm.backends.remote.upstream import Dialect
from illm.backends.remote.workers import Worker
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.remote")

REPLACEABLE = frozenset(
    (Kind.UNREACHABLE, Kind.UPSTREAM, Kind.OVERLOADED, Kind.NOT_READY, Kind.BACKEND_DIED, Kind.SHUTTING_DOWN)
)
"""What another replica may do better.  Not a passed deadline: the client has waited once."""


class Dispatch(Protocol):
    """Where workers find more work: the actor that owns the pools."""

    def next_job(self) -> Job | None:
        """Return what has waited longest in the mailbox."""

    def replace(self, job: Job, failed: "Pool") -> bool:
        """Hand a job to another server; False where there is none, or one was tried already."""

    def refill(self) -> None:
        """A place has fallen free: hand over what waits."""

    def judged(self) -> None:
        """A server went up or down."""

    def listed(self) -> None:
        """A server has listed its models."""

    def working(self) -> None:
        """There is a worker whose deadlines must be watched."""


class Pool:
    """See the module.

    Args:
        server: whose connections these are.
        dialect: what it speaks.
        timeouts: of every exchange.
        limit: how many connections there may be.
        tasks: what connections are opened in.
        dispatch: see there.

    Attributes:
        workers: all of them.
        idle: those that rest on an open connection; the last is the freshest, and goes first.
        models: what the server lists, as of the last probe that asked.
    """

    __slots__ = (
        "_dispatch", "_name", "_tasks", "dialect", "health", "idle", "limit", "models", "server", "timeouts", "workers",
    )  # fmt: skip

    def __init__(
        self, server: Server, dialect: Dialect, timeouts: Timeouts, limit: int, tasks: TaskGroup, dispatch: Dispatch
    ) -> None:
        self.server = server
        self.dialect = dialect
        self.timeouts = timeouts
        self.limit = limit
        self.health = Health(dispatch.judged)
        self.workers: set[Worker] = set()
        self.idle: list[Worker] = []
        self.models: tuple[str, ...] = ()
        self._tasks = tasks
        self._dispatch = dispatch
        self._name = f"illm:{server.framework}/{server.number}"

    @property
    def available(self) -> bool:
        """See `replicas.Load`."""
        return self.health.up and (bool(self.idle) or len(self.workers) < self.limit)

    @property
    def busy(self) -> int:
        """See `replicas.Load`."""
        return len(self.workers) - len(self.idle)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(worker.connected for worker in self.workers)

    def take(self, job: Job) -> None:
        """Hand a job to the worker that went idle last, else to a new one.  Only while `available`."""
        if not self._prepare(job):
            return
        while self.idle:
            if self.idle.pop().hand(job):
                return
        self.open(job)

    def open(self, job: Job) -> None:
        """Hand a job to a new worker."""
        worker = Worker(self)
        self.workers.add(worker)
        self._dispatch.working()
        worker.open(job, self._tasks, self._name)

    def note_models(self, models: tuple[str, ...]) -> None:
        """Note which models the server lists."""
        self.models = models
        self._dispatch.listed()

    def check(self, now: float) -> None:
        """Act on deadlines that have passed.  `now` is on the loop's clock."""
        for worker in tuple(self.workers):
            worker.check(now)

    def close(self) -> None:
        """The actor ends: close every connection, and hang up on whoever still waits."""
        for worker in tuple(self.workers):
            worker.close()

    def settle(self, job: Job, error: GatewayError) -> None:
        """Have another server answer what failed here, or say so."""
        call = job.call
        if call.left:
            call.finish()
        elif job.begun or error.kind not in REPLACEABLE or not self._dispatch.replace(job, self):
            call.fail(self.server.hide_in(error))

    # What workers ask of it

    def find_work(self, worker: Worker) -> bool:
        """Hand what waits to a worker that has just finished; False where nothing does, or the server is down."""
        while self.health.up and (job := self._dispatch.next_job()) is not None:
            if self._prepare(job):
                if not worker.hand(job):
                    self.open(job)
                return True
        return False

    def refill(self) -> None:
        """See `Dispatch.refill`."""
        self._dispatch.refill()

    def gone(self, worker: Worker) -> None:
        """A worker has ended."""
        self.workers.discard(worker)
        if worker in self.idle:
            self.idle.remove(worker)

    def _prepare(self, job: Job) -> bool:
        """Translate a request for this server; one that cannot be is answered, and costs no connection."""
        try:
            outgoing = self.dialect.outgoing(job.request)
            job.method, job.pieces = outgoing.method, self.server.encode(outgoing)
            job.decoder = self.dialect.decoder(job.request)
        except GatewayError as error:
            self.settle(job, error)
            return False
        except Exception as error:  # this request only; neighbours must not feel it
            logger.exception("%s: a request failed on our side", self.server)
            self.settle(job, blunder(error))
            return False
        return True
