"""Asking one server whether it is well, and what it serves, on a connection that lives as long as the answer.

Both questions cost no generation; which paths they are is the dialect's to say.
"""

import logging
from typing import NamedTuple

import anyio

from illm.backends.remote.connection import Connection, UnreachableError
from illm.backends.remote.pool import Pool
from illm.backends.remote.server import Server
from illm.backends.remote.upstream import Outgoing
from illm.http11.client_response import ResponseParser

logger = logging.getLogger("illm.remote")

PATIENCE = 5.0
"""Seconds an answer may take, the connection included."""
MODELS_EVERY = 6
"""Probes from one look at the list of models to the next."""
_LARGEST = 4 * 2**20


class Answer(NamedTuple):
    """What came back; `status` is None where it was no HTTP, or not all of it."""

    status: int | None
    body: bytes = b""
    reusable: bool = False


class Found(NamedTuple):
    """What a probe found; see `Health.probed`.

    `models` is None where nobody asked or no list came; `ours`: the fault is this machine's, and says nothing.
    """

    status: int | None
    problem: str | None = None
    models: tuple[str, ...] | None = None
    ours: bool = False


async def watch_health(pool: Pool) -> None:
    """Probe one server until cancelled: every few seconds while it is well, sooner, with backoff, while it is not."""
    health, count = pool.health, 0
    while True:
        was_up = health.up
        found = await _examine(pool, with_models=not was_up or count % MODELS_EVERY == 0)
        count = count + 1 if was_up else 1
        if found.models is not None:
            pool.note_models(found.models)
        if not (found.ours and health.known):
            health.probed(found.status, found.problem)
        if health.up is not was_up:
            logger.info("%s is %s", pool.server, "up" if health.up else f"down: {health.problem}")
        while True:
            health.disturbed = anyio.Event()
            with anyio.move_on_after(health.pause):
                await health.disturbed.wait()
                logger.warning("%s is down: %s", pool.server, health.problem)
                continue
            break


async def _examine(pool: Pool, *, with_models: bool) -> Found:
    server, dialect = pool.server, pool.dialect
    connection = Connection()
    status: int | None = None
    try:
        with anyio.move_on_after(min(PATIENCE, pool.timeouts.connect + pool.timeouts.first_byte)):
            await connection.open(server)
            answer = await fetch(connection, server, dialect.probe_path)
            status = answer.status
            if not with_models or status is None or status >= 500:
                return Found(status)
            if dialect.models_path != dialect.probe_path:
                if not answer.reusable:
                    connection.close()
                    connection = Connection()
                    await connection.open(server)
                answer = await fetch(connection, server, dialect.models_path)
            return Found(status, models=_read_models(pool, answer))
    except UnreachableError as error:
        return Found(status, error.reason, ours=error.ours)
    finally:
        connection.close()
    return Found(status)


async def fetch(connection: Connection, server: Server, path: str) -> Answer:
    """Send a GET and return the whole answer, unless it is too large to be one."""
    connection.send(b"".join(server.encode(Outgoing("GET", path))))
    parser, body = ResponseParser("GET"), bytearray()
    while not parser.over and len(body) < _LARGEST:
        data = await connection.receive()
        if data:
            body += parser.feed(data)
        else:
            parser.eof(broken=data is None)
    if parser.head is None or not parser.over or parser.fault is not None:
        return Answer(None)
    return Answer(parser.head.status, bytes(body), parser.reusable)


def _read_models(pool: Pool, answer: Answer) -> tuple[str, ...] | None:
    if answer.status != 200:
        return None
    try:
        return tuple(pool.dialect.models(answer.body))
    except Exception:  # whatever a server lists there, it can still answer requests
        logger.exception("%s: its list of models cannot be read", pool.server)
        return None
