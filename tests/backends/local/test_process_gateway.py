"""`--engine process` from a client's side: one child is killed under load, and nobody else notices."""

import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from illm.actors.directory import Directory
from illm.actors.ref import Served, State
from illm.actors.supervisor import Policy
from illm.asgi.app import Gateway
from illm.backends.local.actor import LocalActor, Slot
from illm.backends.local.process import EngineProcess
from illm.config import Config
from illm.core.capabilities import Capability
from illm.server import serve

from . import child_works
from .fakes import PATIENCE

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.name != "posix", reason="needs a system that hands sockets to child processes"),
]

STREAMS = 6


class Children:
    """A backend of two models, each in a child process of its own."""

    framework = "transformers"

    def __init__(self) -> None:
        self.slots = {name: Slot() for name in ("one", "other")}

    def named(self) -> list[Served]:
        return [self._served(name, slot) for name, slot in self.slots.items()]

    def on_demand(self, model, need):
        raise AssertionError

    def default(self, need):
        return "one"

    def pid(self, name: str) -> int:
        thread = self.slots[name].thread
        assert isinstance(thread, EngineProcess)
        return thread.pid

    def _served(self, name: str, slot: Slot) -> Served:
        drive: Callable[..., Any] = partial(EngineProcess, note=slot.note)
        return Served(
            framework=self.framework,
            model=name,
            capabilities=frozenset({Capability.CHAT, Capability.STREAMING}),
            make_actor=lambda: LocalActor(name, child_works.letters, slot, capacity=2 * STREAMS, drive=drive),
            details=slot.describe,
        )


@asynccontextmanager
async def serving():
    """Yields the backend, its directory, and a client that blocks."""
    backend = Children()
    app = Gateway(
        Config(), lambda: Directory([backend], default="transformers", policy=Policy(backoff=0.01, intensity=3))
    )
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        [(host, port)] = await tasks.start(partial(serve, app, port=0, shutdown=stop))
        directory = await app._runtime.directory()
        with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as client:
            await until(lambda: directory.status == "ok")
            yield backend, directory, client
        stop.set()
    for slot in backend.slots.values():
        assert slot.thread is None


async def until(condition) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.lowlevel.checkpoint()


def stream(client, model: str, text: str, pieces: list[str]) -> str:
    """Stream one answer; returns why it ended."""
    messages = [{"role": "user", "content": text}]
    with client.chat.completions.create(model=model, messages=messages, stream=True) as chunks:
        reason = "broken off"
        for chunk in chunks:
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                reason = choice.finish_reason or reason
    return reason


async def test_killed_under_load_its_requests_fail_and_the_others_do_not():
    outcomes: dict[tuple[str, int], Any] = {}
    said: dict[tuple[str, int], list[str]] = {}
    async with serving() as (backend, directory, client):
        refs = {ref.model: ref for ref in directory}

        async def ask(model: str, number: int) -> None:
            pieces = said[model, number] = []
            text = "endless" if model == "one" else "b" * 20_000
            try:
                outcomes[model, number] = await anyio.to_thread.run_sync(stream, client, model, text, pieces)
            except openai.APIError as error:
                outcomes[model, number] = error

        killed, survivor = backend.pid("one"), backend.pid("other")
        async with anyio.create_task_group() as tasks:
            for model in refs:
                for number in range(STREAMS):
                    tasks.start_soon(ask, model, number)
            await until(lambda: len(said) == 2 * STREAMS and all(map(any, said.values())))
            os.kill(killed, signal.SIGKILL)
        for number in range(STREAMS):
            assert outcomes["one", number].code == "backend_died"
            assert outcomes["other", number] == "stop"
            assert len("".join(said["other", number])) == 20_000
        await until(lambda: refs["one"].state is State.READY)
        assert (refs["one"].restarts, refs["other"].restarts) == (1, 0)
        assert backend.pid("other") == survivor
        assert backend.pid("one") != killed
        pieces: list[str] = []
        assert await anyio.to_thread.run_sync(stream, client, "one", "again", pieces) == "stop"
        assert "".join(pieces) == "again"


async def test_a_client_that_leaves_stops_the_work_there():
    async with serving() as (backend, directory, client):
        pieces: list[str] = []

        def leave() -> None:
            messages = [{"role": "user", "content": "endless"}]
            with client.chat.completions.create(model="one", messages=messages, stream=True) as chunks:
                pieces.append(next(chunk.choices[0].delta.content for chunk in chunks if chunk.choices))

        await anyio.to_thread.run_sync(leave)
        await until(lambda: backend.slots["one"].describe().get("aborted") == 1)
        assert not any(ref.busy for ref in directory)
