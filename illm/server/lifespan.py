"""The ASGI lifespan protocol, from the server's side."""

import logging
from typing import Any

import anyio

from illm.server.scope import Application, Message

logger = logging.getLogger("illm.server")


class LifespanFailed(RuntimeError):  # noqa: N818  # ASGI's own word
    """The application could not start, or could not go on; the message is the application's."""


class Lifespan:
    """One application's lifespan: `run` is a task, `startup` and `shutdown` talk to it.

    Args:
        app: the application.  One that knows no lifespan (it raises or returns at once) is served without.
        stop: set if the application's lifespan task dies while serving: an application without its root is not one.
    """

    def __init__(self, app: Application, stop: anyio.Event) -> None:
        self.state: dict[str, Any] = {}
        self.failure: str | None = None
        """Why the application cannot be served (any more)."""
        self._app = app
        self._stop = stop
        self._asked = False
        self._running = False
        self._started = anyio.Event()
        self._ending = anyio.Event()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Call the application with the lifespan scope; lasts as long as it does."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as exc:
            if self._running:
                logger.exception("the application's lifespan failed")
                self.failure = self.failure or f"the application's lifespan failed: {exc}"
                self._stop.set()
            elif self.failure is None:
                logger.info("the application has no lifespan (%r)", exc)
        finally:
            self._started.set()
            self._ended.set()

    async def startup(self) -> bool:
        """Wait until the application has started; False if it could not (see `failure`)."""
        await self._started.wait()
        return self.failure is None

    async def shutdown(self, limit: float) -> None:
        """Tell the application to end, and wait for it, at most `limit` seconds."""
        self._ending.set()
        if not self._running:
            return
        with anyio.move_on_after(limit) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            logger.warning("the application did not shut down within %g s", limit)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._running = True
                self._started.set()
            case "lifespan.startup.failed":
                self.failure = message.get("message") or "the application failed to start"
                self._started.set()
            case "lifespan.shutdown.complete":
                self._ended.set()
            case "lifespan.shutdown.failed":
                self.failure = message.get("message") or "the application failed to shut down"
                self._ended.set()
            case other:
                raise RuntimeError(f"unexpected message {other!r}")
