"""The whole gateway on a real socket, as its users have it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

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
            app = create_app(Config(**said))
            run = partial(serve, app, port=0, shutdown=shutdown)
            ((host, port), *_) = await tasks.start(run)
            url = f"http://{host}:{port}"
            await (await app._runtime.directory()).settled()
            yield url
            shutdown.set()
