"""The whole gateway on a real socket, as its users have it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx

from illm.asgi.app import create_app
from illm.config import Config
from illm.server import serve

PATIENCE = 30


@asynccontextmanager
async def serving(**said: Any) -> AsyncIterator[str]:
    """Serve while the block lasts, once every backend has been asked how it is.

    Args:
        said: what configures it.

    Yields:
        Its address.
    """
    shutdown = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            run = partial(serve, create_app(Config(**said)), port=0, shutdown=shutdown)
            ((host, port), *_) = await tasks.start(run)
            url = f"http://{host}:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
                while (await client.get("/healthz")).json()["status"] == "loading":
                    pass
            yield url
            shutdown.set()
