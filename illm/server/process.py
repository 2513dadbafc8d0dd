"""The server as a process: a loop, signals, an exit status."""

import gc
import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

import anyio
from anyio.abc import TaskStatus

from illm.http11.engine import find_engine
from illm.server.lifespan import LifespanFailed
from illm.server.limits import Limits
from illm.server.scope import Application
from illm.server.serving import serve

logger = logging.getLogger("illm.server")

CANNOT_BIND = 1
LIFESPAN_FAILED = 3
_DEFAULTS = Limits()
_YOUNG = 20_000
"""Objects made and not yet freed between two looks of the collector; Python's own figure is 700."""

_LAST_GRACE = 2.0
"""Seconds between the second signal and the hard exit, for what cannot be cancelled (a thread in native code)."""

Listening = Callable[[list[tuple[str, int]]], None]


def run(
    app: Application,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    loop: Literal["asyncio", "trio"] = "asyncio",
    http: str = "auto",
    workers: int = 1,
    limits: Limits = _DEFAULTS,
    root_path: str = "",
    on_listening: Listening | None = None,
) -> int:
    """Serve `app` until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Args:
        app: any ASGI 3 application.
        host: an address or name; `None` for every interface.
        port: 0 lets the system choose.
        uds: a Unix socket's path, instead of host and port.
        loop: which event loop; asyncio runs on uvloop where that is installed.
        http: who reads requests beside our own check: `auto` (nobody), `h11` or `httptools`.
        workers: processes; each has an event loop and a life of the application of its own.
        limits: see `Limits`; they hold for each worker.
        root_path: where the application is mounted.
        on_listening: called with the bound addresses once requests are accepted.

    Returns:
        The exit status: 0, `CANNOT_BIND`, `LIFESPAN_FAILED`, `WORKERS_FAILED`, or 128 and the second signal's number.

    Raises:
        ImportError: the chosen reader is not installed.
        NotImplementedError: several workers on a system that cannot fork.
    """
    find_engine(http)
    serving = partial(serve, app, host=host, port=port, uds=uds, limits=limits, root_path=root_path, http=http)
    options = {"use_uvloop": True} if loop == "asyncio" and importlib.util.find_spec("uvloop") is not None else {}
    where = uds or f"{host or '*'}:{port}"

    def work(
        sockets: list[socket.socket] | None, listening: Listening | None, orphaned: int | None, signals: Sequence[int]
    ) -> int:
        main = partial(_main, partial(serving, sockets=sockets), where, listening, orphaned, signals)
        return anyio.run(main, backend=loop, backend_options=options)

    if workers == 1:
        return work(None, on_listening, None, (signal.SIGTERM, signal.SIGINT))
    if not hasattr(os, "fork"):
        raise NotImplementedError("several workers need a system with fork")
    from illm.server.workers import bind_workers, run_workers

    try:
        bound = bind_workers(workers, host, port, uds, limits.backlog)
    except OSError as exc:
        return _cannot_listen(where, exc)

    def work_for(sockets: list[socket.socket], ready: Callable[[], None], orphaned: int) -> int:
        return work(sockets, lambda _: ready(), orphaned, (signal.SIGTERM,))

    return run_workers(bound, work_for, on_listening)


async def _main(
    serving: Callable[..., Awaitable[None]],
    where: str,
    on_listening: Listening | None,
    orphaned: int | None,
    numbers: Sequence[int],
) -> int:
    shutdown = anyio.Event()
    signals: list[int] = []
    status = 0
    async with anyio.create_task_group() as tasks:
        await tasks.start(_watch_signals, shutdown, tasks.cancel_scope, signals, numbers)
        if orphaned is not None:
            tasks.start_soon(_watch_parent, orphaned, shutdown)
        try:
            await serving(shutdown=shutdown, task_status=_Started(on_listening))
        except LifespanFailed as exc:
            logger.error("%s", exc)
            status = LIFESPAN_FAILED
        except OSError as exc:
            status = _cannot_listen(where, exc)
        tasks.cancel_scope.cancel()
    return 128 + signals[1] if len(signals) > 1 else status


def _cannot_listen(where: str, exc: OSError) -> int:
    logger.error("cannot listen on %s: %s", where, exc.strerror or exc)
    return CANNOT_BIND


async def _watch_parent(orphaned: int, shutdown: anyio.Event) -> None:
    await anyio.wait_readable(orphaned)
    logger.warning("stopping: the parent process is gone")
    shutdown.set()


async def _watch_signals(
    shutdown: anyio.Event,
    everything: anyio.CancelScope,
    seen: list[int],
    numbers: Sequence[int],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(*map(signal.Signals, numbers)) as received:
        task_status.started()
        async for number in received:
            seen.append(number)
            if len(seen) == 1:
                logger.info("stopping: running requests may finish")
                shutdown.set()
                continue
            logger.warning("stopping at once")
            hard = threading.Timer(_LAST_GRACE, os._exit, (128 + number,))
            hard.daemon = True
            hard.start()
            everything.cancel()


def _settle_memory() -> None:
    """Have the collector leave alone what was made before the first request, and come less often.

    A request makes no cycles, but hundreds of requests at once hold enough objects to have the collector look through
    all of them, and through every imported module, many times a second.  Only a process of ours may be told so.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)


class _Started:
    """A `TaskStatus` that calls a function: `serve` tells a parent task and a process in one way."""

    def __init__(self, call: Listening | None) -> None:
        self._call = call

    def started(self, value: list[tuple[str, int]] | None = None) -> None:
        """See `TaskStatus`."""
        _settle_memory()
        if self._call is not None and value is not None:
            self._call(value)
