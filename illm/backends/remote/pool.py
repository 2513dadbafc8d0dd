"""The workers of one server: who rests, who may be started.  Everything here is synchronous, so no lock is needed."""

from typing import Protocol

from anyio.abc import TaskGroup

from illm.backends.remote.deadlines import Timeouts
from illm.backends.remote.health import Health
from illm.backends.remote.server import Server
from illm.backends.remote.upstream import Dialect
from illm.backends.remote.workers import Job, Worker


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


class Pool:
    """See the module.

    Args:
        server: whose connections these are.
        dialect: what it speaks.
        timeouts: of every exchange.
        limit: how many connections there may be.
        tasks: what workers run in.
        dispatch: see there.

    Attributes:
        workers: all of them.
        idle: those that rest on an open connection; the last is the freshest, and goes first.
        models: what the server lists, as of the last probe that asked.
    """

    __slots__ = ("_dispatch", "_tasks", "dialect", "health", "idle", "limit", "models", "server", "timeouts", "workers")

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
        if self.idle:
            self.idle.pop().hand(job)
            return
        worker = Worker(self, job)
        self.workers.add(worker)
        self._tasks.start_soon(worker.run, name=f"illm:{self.server.framework}/{self.server.number}")

    def check(self, now: float) -> None:
        """Act on deadlines that have passed."""
        for worker in tuple(self.workers):
            worker.check(now)

    # What workers ask of it

    def next_job(self) -> Job | None:
        """Return a job for a worker that has just finished one; none for a server that is down."""
        return self._dispatch.next_job() if self.health.up else None

    def replace(self, job: Job) -> bool:
        """See `Dispatch.replace`."""
        return self._dispatch.replace(job, self)

    def refill(self) -> None:
        """See `Dispatch.refill`."""
        self._dispatch.refill()

    def retire(self, worker: Worker) -> bool:
        """Take a worker out of the idle ones; False where it has just been given a job."""
        if worker not in self.idle:
            return False
        self.idle.remove(worker)
        return True

    def gone(self, worker: Worker) -> None:
        """A worker has ended."""
        self.workers.discard(worker)
        self.retire(worker)
