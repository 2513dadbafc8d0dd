"""The inside of a backend: what runs, and the simple kind that handles one call in one task."""

from collections.abc import Callable
from typing import Protocol

import anyio

from illm.actors.call import Call
from illm.actors.inbox import Inbox
from illm.core.events import Event
from illm.core.requests import Request
from illm.errors import GatewayError, Kind


class Actor(Protocol):
    """Something long-lived that answers calls.  A new one is made for every (re)start."""

    async def run(self, inbox: Inbox, ready: Callable[[], None]) -> None:
        """Start, say `ready()`, then take calls from `inbox` until cancelled.

        Raises:
            GatewayError: it cannot start and trying again soon is pointless (no such model, missing package).
            Exception: it crashed; the supervisor restarts it.  Every call taken must have been answered by then.
        """


class Respond(Protocol):
    """How a `TaskActor` sends events: waits while the reader is slow."""

    async def __call__(self, *events: Event) -> None: ...


class TaskActor:
    """An actor for backends that can serve calls side by side: one task a call, at most `concurrency` at once.

    Subclasses write `handle`, and `start` / `stop` if they own something.  A raised `GatewayError` is that request's
    failure, any other exception too (as `INTERNAL`); `BackendBrokenError` is the actor's end.  An exception that comes
    wrapped in groups, as from a task group, counts as the one inside.
    """

    concurrency = 256

    async def start(self) -> None:
        """Acquire what the backend needs.  Raises as `Actor.run`."""

    async def stop(self) -> None:
        """Release what `start` acquired, be it half; called shielded, with a few seconds to finish."""

    async def handle(self, request: Request, respond: Respond) -> None:
        """Answer one request: any number of events, the last one `Done`."""
        raise NotImplementedError

    async def run(self, inbox: Inbox, ready: Callable[[], None]) -> None:
        """See `Actor.run`."""
        slots = anyio.Semaphore(self.concurrency)
        try:
            await self.start()
            ready()
            async with anyio.create_task_group() as tasks:
                while True:
                    await slots.acquire()
                    tasks.start_soon(self._serve, await inbox.take(), slots, tasks)
        finally:
            with anyio.move_on_after(5, shield=True):
                await self.stop()

    async def _serve(self, call: Call, slots: anyio.Semaphore, tasks: anyio.abc.TaskGroup) -> None:
        error: GatewayError | None = None
        with anyio.CancelScope() as scope:
            call.on_leave = scope.cancel
            try:
                if not call.left:
                    await self.handle(call.request, call.reply.put)
            except Exception as raised:
                failure = _innermost(raised)
                if isinstance(failure, BackendBrokenError):
                    # Die before hanging up, or on asyncio the dying loop takes the caller's retry.
                    tasks.cancel_scope.cancel()
                    raise
                error = _failure(failure)
            finally:
                slots.release()
                call.on_leave = None
                call.fail(error) if error else call.finish()


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _failure(error: Exception) -> GatewayError:
    """This request's only: neighbours must not feel it.  If its caller left, nobody reads it."""
    if isinstance(error, GatewayError):
        return error
    failure = GatewayError(Kind.INTERNAL, "The backend failed on this request")
    failure.__cause__ = error
    return failure


class BackendBrokenError(Exception):
    """The backend as a whole is unusable: its actor ends and is started anew."""
