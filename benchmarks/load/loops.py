"""The two ways to load a system: as many requests as it answers, or as many as there are whether it answers or not."""

import asyncio
import math
from time import monotonic_ns
from urllib.parse import urlsplit

from benchmarks.load.bodies import Body
from benchmarks.load.connection import Connection
from benchmarks.load.exchange import Exchange
from benchmarks.load.plan import Plan
from benchmarks.processes import HOST

COARSE_NS = 2_000_000
"""By how much the event loop's timers may be late without anybody being slow."""


class Load:
    """What both loops share: bodies in turn, connections, and the exchanges that are remembered.

    Args:
        plan: what to do.
        bodies: what to send.

    Attributes:
        exchanges: the timed ones, in the order of their beginning.
        warming: those before.
        began: when the first timed one did, ns.
        missing: open loop: requests for which no connection was left, and which were never sent.
    """

    def __init__(self, plan: Plan, bodies: list[Body]) -> None:
        self.plan = plan
        self.exchanges: list[Exchange] = []
        self.warming: list[Exchange] = []
        self.began = 0
        self.missing = 0
        self._bodies = bodies
        self._next = 0
        self._running = 0
        self._over = asyncio.get_running_loop().create_future()

    def begin(self, due: int, into: list[Exchange]) -> Exchange:
        """Return a new exchange with the next body."""
        exchange = Exchange(self._bodies[self._next % len(self._bodies)], due)
        self._next += 1
        self._running += 1
        into.append(exchange)
        return exchange

    def end(self, *, last: bool) -> None:
        """Count an exchange as over; `last` says that no other will begin."""
        self._running -= 1
        if last and self._running == 0 and not self._over.done():
            self._over.set_result(None)

    async def over(self, limit: float) -> None:
        """Wait until all are; those that are not after `limit` seconds stay unanswered."""
        await asyncio.wait([self._over], timeout=limit)


async def connect(plan: Plan, count: int) -> list[Connection]:
    """Open connections, one after the other: no backlog is asked to hold them all."""
    where = urlsplit(plan.url)
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(count):
        _, connection = await loop.create_connection(Connection, where.hostname or HOST, where.port or 80)
        opened.append(connection)
    return opened


async def warm_up(load: Load, connections: list[Connection]) -> list[Connection]:
    """Use each connection a few times, all at once; return those that may be used further."""
    for _ in range(load.plan.warm_up):
        connections = [connection for connection in connections if connection.usable]
        waiting = len(connections)
        if not waiting:
            break
        all_done = asyncio.get_running_loop().create_future()

        def ended(connection: Connection, exchange: Exchange, done: "asyncio.Future[None]" = all_done) -> None:
            nonlocal waiting
            waiting -= 1
            load.end(last=False)
            if waiting == 0 and not done.done():
                done.set_result(None)

        for connection in connections:
            connection.on_end(ended)
            connection.send(load.begin(monotonic_ns(), load.warming))
        await asyncio.wait([all_done], timeout=load.plan.patience)
    return [connection for connection in connections if connection.usable]


async def closed_loop(load: Load, connections: list[Connection]) -> None:
    """Keep every connection busy until the time or the number of requests is used up."""
    plan = load.plan
    loop = asyncio.get_running_loop()
    most = math.inf if plan.requests is None else plan.requests
    load.began = monotonic_ns()
    end = load.began + int(min(plan.seconds, 1e6) * 1e9)
    exchanges = load.exchanges
    reconnecting: set[asyncio.Task[None]] = set()

    def over() -> bool:
        return len(exchanges) >= most or monotonic_ns() >= end

    def ended(connection: Connection, exchange: Exchange) -> None:
        stop = over()
        if not stop:
            proceed(connection)
        load.end(last=stop)

    def proceed(connection: Connection) -> None:
        if connection.usable:
            connection.send(load.begin(monotonic_ns(), exchanges))
        else:  # time spent on it is the system's: it did not keep the connection
            task = loop.create_task(reconnect(load.begin(monotonic_ns(), exchanges)))
            reconnecting.add(task)
            task.add_done_callback(reconnecting.discard)

    async def reconnect(exchange: Exchange) -> None:
        due = exchange.due
        try:
            (connection,) = await connect(plan, 1)
        except OSError as error:
            exchange.broken = f"no connection: {error}"
            await asyncio.sleep(0.05)  # no busy loop against a system that is gone
            load.end(last=True)
            return
        connection.on_end(ended)
        connection.send(exchange)
        exchange.sent = due

    def start(connection: Connection) -> None:
        if not over():
            connection.on_end(ended)
            proceed(connection)

    for index, connection in enumerate(connections):
        if plan.stagger:
            loop.call_later(plan.stagger * index / len(connections), start, connection)
        else:
            start(connection)
    await load.over(min(plan.seconds, 1e6) + plan.patience)


async def open_loop(load: Load, connections: list[Connection]) -> None:
    """Begin requests on a fixed schedule; how long each took counts from when it was due."""
    plan = load.plan
    assert plan.rate is not None
    loop = asyncio.get_running_loop()
    gap = 1e9 / plan.rate
    count = int(plan.seconds * plan.rate)
    idle = connections[:]
    begun = 0
    load.began = monotonic_ns()

    def ended(connection: Connection, exchange: Exchange) -> None:
        if connection.usable:
            idle.append(connection)
        load.end(last=begun >= count)

    for connection in connections:
        connection.on_end(ended)

    def tick() -> None:
        nonlocal begun
        now = monotonic_ns()
        while begun < count and (due := load.began + int(begun * gap)) <= now:
            begun += 1
            while idle and not idle[-1].usable:
                idle.pop()
            if idle:
                # The timer's own coarseness is nobody's fault; what is later than that, the machine was too busy for.
                idle.pop().send(load.begin(now if now - due < COARSE_NS else due, load.exchanges))
            else:
                load.missing += 1
        if begun < count:
            loop.call_later(0.001, tick)

    tick()
    await load.over(plan.seconds + plan.patience)
