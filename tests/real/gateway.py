"""ILLM in front of a real server, over a real socket, for the official client."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import anyio
import httpx

import illm
from illm.config import load
from illm.server import serve


@contextmanager
def served(environment: Mapping[str, str], loop: str) -> Iterator[str]:
    """Serve from a thread while the block lasts.

    Args:
        environment: what configures it.
        loop: `asyncio` or `trio`.

    Yields:
        The base URL that an OpenAI client wants.
    """
    found: list[str] = []
    ready = threading.Event()
    stop = threading.Event()

    async def run() -> None:
        app = illm.create_app(load(environment))
        shutdown = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def listen(*, task_status: anyio.abc.TaskStatus) -> None:
                await serve(app, port=0, shutdown=shutdown, task_status=task_status)

            ((host, port),) = await tasks.start(listen)
            found.append(f"http://{host}:{port}")
            ready.set()
            await anyio.to_thread.run_sync(stop.wait)
            shutdown.set()

    thread = threading.Thread(target=anyio.run, args=(run,), kwargs={"backend": loop}, daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        _settle(found[0])
        yield f"{found[0]}/v1"
    finally:
        stop.set()
        thread.join(60)


def _settle(url: str) -> None:
    pause = threading.Event()
    for _ in range(300):
        if httpx.get(f"{url}/healthz", timeout=30, trust_env=False).json()["status"] != "loading":
            return
        pause.wait(0.1)
