"""The server as a process: a loop, signals, an exit status."""

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Literal

import anyio
from anyio.abc import TaskStatus

from illm.server.lifespan import LifespanFailed
from illm.server.limits import Limits
from illm.server.scope import Application
from illm.server.serving import serve

logger = logging.getLogger("illm.server")

CANNOT_BIND = 1
LIFESPAN_FAILED = 3
_DEFAULTS = Limits()
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
        limits: see `Limits`.
        root_path: where the application is mounted.
        on_listening: called with the bound addresses once requests are accepted.

    Returns:
        The exit status: 0, `CANNOT_BIND`, `LIFESPAN_FAILED`, or 128 and the second signal's number.
    """
    fast = loop == "asyncio" and importlib.util.find_spec("uvloop") is not None
    main = partial(_main, app, host, port, uds, limits, root_path, on_listening)
    return anyio.run(main, backend=loop, backend_options={"use_uvloop": True} if fast else {})


async def _main(
    app: Application,
    host: str | None,
    port: int,
    uds: str | None,
    limits: Limits,
    root_path: str,
    on_listening: Listening | None,
) -> int:
    shutdown = anyio.Event()
    signals: list[int] = []
    status = 0
    async with anyio.create_task_group() as tasks:
        await tasks.start(_watch_signals, shutdown, tasks.cancel_scope, signals)
        try:
            await serve(
                app,
                host=host,
                port=port,
                uds=uds,
                limits=limits,
                root_path=root_path,
                shutdown=shutdown,
                task_status=_Started(on_listening),
            )
        except LifespanFailed as exc:
            logger.error("%s", exc)
            status = LIFESPAN_FAILED
        except OSError as exc:
            logger.error("cannot listen on %s: %s", uds or f"{host or '*'}:{port}", exc.strerror or exc)
            status = CANNOT_BIND
        tasks.cancel_scope.cancel()
    return 128 + signals[1] if len(signals) > 1 else status


async def _watch_signals(
    shutdown: anyio.Event,
    everything: anyio.CancelScope,
    seen: list[int],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
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


class _Started:
    """A `TaskStatus` that calls a function: `serve` tells a parent task and a process in one way."""

    def __init__(self, call: Listening | None) -> None:
        self._call = call

    def started(self, value: list[tuple[str, int]] | None = None) -> None:
        """See `TaskStatus`."""
        if self._call is not None and value is not None:
            self._call(value)
