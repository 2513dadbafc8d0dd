"""What the servers of these tests run: the application over the scripted backend, bare and mounted."""

import logging
from contextlib import asynccontextmanager

from asgi.scripted import directory

from illm.asgi.app import Gateway
from illm.config import Config

PATIENCE = 1.0
"""Seconds for a client that stalls."""


def create_app() -> Gateway:
    """The application itself."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    return Gateway(Config(max_body_bytes=1 << 20, client_timeout=PATIENCE), directory)


def create_without_lifespan():
    """The application behind something that keeps the lifespan to itself."""
    app = create_app()

    async def without_lifespan(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await app(scope, receive, send)

    return without_lifespan


def create_mounted():
    """Two applications in one host, whose lifespan runs them."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    one, two = create_app(), Gateway(Config(api_key="sesame"), directory)

    @asynccontextmanager
    async def lifespan(host):
        async with one.running(), two.running():
            yield

    return Starlette(routes=[Mount("/one", one), Mount("/two", two)], lifespan=lifespan)


def create_mounted_only():
    """The application in a host that knows nothing of its actors."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/one", create_app())])
