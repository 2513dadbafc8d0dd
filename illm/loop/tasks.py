"""The one file that knows which event loop runs.

anyio has no way to post from a thread without waiting, and none to start a task that belongs to the loop itself; both
loops do.  Differences kept in here: on trio a raising callback ends the whole run, on asyncio it is only logged; after
the end trio raises `RunFinishedError`, asyncio `RuntimeError`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.lowlevel

logger = logging.getLogger("illm.loop")

Post = Callable[[Callable[[], None]], bool]


def poster() -> Post:
    """Return a function by which any thread can have a callback run in the current loop, without waiting for it.

    The function returns False when the loop has ended.  Callbacks run in the order posted; what one raises is logged.
    """
    native: Any = anyio.lowlevel.current_token().native_token
    call_soon = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon

    def post(callback: Callable[[], None]) -> bool:
        try:
            call_soon(_guarded, callback)
        except RuntimeError:  # trio.RunFinishedError is one
            return False
        return True

    return post


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # one backend's bug must not end the loop that serves them all
        logger.exception("a posted callback failed")


def hold(act: Callable[[], Awaitable[None]], name: str) -> object:
    """Start a task that lives as long as the loop; keep the returned object.  `act` must catch its own exceptions."""
    native: Any = anyio.lowlevel.current_token().native_token
    if isinstance(native, asyncio.AbstractEventLoop):
        return native.create_task(_coroutine(act), name=name)
    import trio

    return trio.lowlevel.spawn_system_task(_coroutine, act, name=name)


async def _coroutine(act: Callable[[], Awaitable[None]]) -> None:
    await act()
