"""The application: one callable that any ASGI server can run, any framework can mount, any number of times."""

import logging
import os
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from illm.actors.directory import Directory
from illm.asgi.exchange import ClientGoneError, Exchange, Receive, Send
from illm.asgi.routes import MethodNotAllowedError, find_handler, find_route
from illm.asgi.runtime import Runtime
from illm.config import Config, load
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.asgi")


class Gateway:
    """The ASGI application.

    Args:
        config: everything the operator said.
        make_directory: builds the actors' directory; called once an event loop.
    """

    def __init__(self, config: Config, make_directory: Callable[[], Directory]) -> None:
        self.config = config
        self._runtime = Runtime(make_directory)
        self._key = config.api_key.encode() if config.api_key else None
        if self._key is not None:
            import hmac  # brings OpenSSL along, which a start without a key need not wait for

            self._same = hmac.compare_digest

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await receive()
                with suppress(OSError):
                    await send({"type": "websocket.close", "code": 1003})

    def running(self) -> AbstractAsyncContextManager[Directory]:
        """Run the backends while the block lasts: for hosts that mount the application and forward no lifespan."""
        return self._runtime.running()

    def begin_drain(self) -> None:
        """Take no more work in this event loop, and say so; called by our own server at the first signal."""
        self._runtime.drain()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        stage = "startup"
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                stage = "shutdown"
                await receive()
        except Exception as error:
            logger.exception("%s of the backends failed", stage)
            await send({"type": f"lifespan.{stage}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        config, running = self.config, self._runtime.here()
        exchange = Exchange(scope, receive, send, limit=config.max_body_bytes, patience=config.client_timeout)
        record = exchange.record
        try:
            await self._answer(exchange, running.directory if running is not None else None)
        except ClientGoneError:
            record.error = "client_gone"
        except Exception:  # of the server's: a `send` that refuses what it was given
            logger.exception("%s: the response could not be sent", record.request_id)
            record.error = "internal"
        finally:
            record.emit(running.journal if running is not None else None)

    async def _answer(self, exchange: Exchange, directory: Directory | None) -> None:
        try:
            route = find_route(exchange.path)
            public = False
            if route is not None:
                exchange.record.route = route.path
                public = route.public
                if public:  # asked every few seconds, by machines
                    exchange.record.level = logging.DEBUG
            if self._key is not None and not public:
                self._authorize(exchange, self._key)
            handler = find_handler(route, exchange.record.method)
            await handler(exchange, directory or await self._runtime.directory(), self.config)
        except GatewayError as error:
            await exchange.refuse(error, headers=_hints(error))
        except ClientGoneError:
            raise
        except Exception:
            logger.exception("%s: the handler failed", exchange.record.request_id)
            exchange.record.error = "internal"
            if not exchange.started:  # else the server sees an unfinished response and cuts the connection
                await exchange.refuse(GatewayError(Kind.INTERNAL, "The gateway failed on this request"))

    def _authorize(self, exchange: Exchange, key: bytes) -> None:
        scheme, _, theirs = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not self._same(theirs.strip(), key):
            raise GatewayError(Kind.UNAUTHORIZED, "A valid key is required: send `Authorization: Bearer <key>`")


def _hints(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Return the headers that HTTP demands beside certain statuses."""
    if isinstance(error, MethodNotAllowedError):
        return [(b"allow", error.allow.encode())]
    return [(b"www-authenticate", b"Bearer")] if error.kind is Kind.UNAUTHORIZED else []


def create_app(config: Config | None = None) -> Gateway:
    """Build the application.

    Args:
        config: the configuration; read from the environment (`ILLM_*`) when none is given.

    Raises:
        ConfigError: the environment holds a value that cannot be.
    """
    from illm.build import build_directory

    settled = load(os.environ) if config is None else config
    return Gateway(settled, lambda: build_directory(settled))
