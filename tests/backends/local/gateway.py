"""A gateway on a real socket, and a client of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx

from illm import create_app
from illm.config import Config
from illm.server import serve

PATIENCE = 60
"""Seconds that anything here may take."""


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve until the block ends; yields a client, once the models are there.

    Args:
        options: of `Config`.
    """
    app = create_app(Config(**options))
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        [(host, port), *_] = await tasks.start(partial(serve, app, port=0, shutdown=stop))
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=PATIENCE) as client:
            with anyio.fail_after(PATIENCE):
                # An event, not a loop of requests: such a loop takes the interpreter from the thread that loads.
                await (await app._runtime.directory()).settled()
                assert (await client.get("/healthz")).status_code == 200
            yield client
        stop.set()
