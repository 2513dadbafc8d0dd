"""Actors for tests: each does one thing, and says so through events."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from illm.actors.actor import Actor
from illm.actors.call import Call
from illm.actors.directory import Directory
from illm.actors.inbox import Inbox
from illm.actors.ref import Ref, Served
from illm.actors.supervisor import Policy
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Event, Usage
from illm.core.requests import Chat, Embed, Message, Sampling, Text
from illm.errors import GatewayError, Kind

CHATS = frozenset({Capability.CHAT, Capability.STREAMING})
EMBEDS = frozenset({Capability.EMBEDDINGS})
DONE = Done(Usage(1, 1))
EAGER = Policy(intensity=2, period=1000, backoff=0)

Behaviour = Callable[[Inbox, Callable[[], None]], Awaitable[None]]


def chat(text: str = "hello", *, model: str | None = None, framework: str | None = None) -> Chat:
    return Chat(messages=(Message("user", (Text(text),)),), sampling=Sampling(), model=model, framework=framework)


def embed(*, model: str | None = None, explicit: bool = False) -> Embed:
    return Embed(inputs=("hello",), model=model, explicit=explicit)


async def answer(call: Call) -> list[Event]:
    """Everything the call is answered with."""
    events: list[Event] = []
    try:
        while True:
            events += await call.reply.take()
    except anyio.EndOfStream:
        return events


async def until(condition: Callable[[], object]) -> None:
    """Let the others run until it holds."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def echo(inbox: Inbox, ready: Callable[[], None]) -> None:
    ready()
    while True:
        call = await inbox.take()
        call.finish(Delta(0, call.request.messages[0].text, 1), DONE)


async def crash(inbox: Inbox, ready: Callable[[], None]) -> None:
    raise RuntimeError("boom")


async def refuse(inbox: Inbox, ready: Callable[[], None]) -> None:
    raise GatewayError(Kind.MODEL_LOAD_FAILED, "no weights")


@dataclass
class Gated:
    """Loads until `load` is set, takes one call and keeps it; ends when cancelled and `leave` is set."""

    load: anyio.Event
    leave: anyio.Event
    began: bool = False
    ended: bool = False

    @classmethod
    def make(cls, *, leave: bool = True) -> "Gated":
        gated = cls(anyio.Event(), anyio.Event())
        if leave:
            gated.leave.set()
        return gated

    async def __call__(self, inbox: Inbox, ready: Callable[[], None]) -> None:
        self.began = True
        try:
            await self.load.wait()
            ready()
            while True:
                await inbox.take()
        finally:
            with anyio.CancelScope(shield=True):
                await self.leave.wait()
            self.ended = True


class Scripted:
    """An actor that behaves as told."""

    def __init__(self, behave: Behaviour) -> None:
        self.run = behave


class Script:
    """Makes actors: one for each behaviour in turn, the last one again and again."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.made = 0

    def __call__(self) -> Actor:
        behave = self.behaviours[min(self.made, len(self.behaviours) - 1)]
        self.made += 1
        return Scripted(behave)


def served(
    model: str,
    *behaviours: Behaviour,
    named: bool = True,
    framework: str = "fake",
    capabilities: frozenset[Capability] = CHATS,
    mailbox: int = 8,
) -> Served:
    return Served(
        framework=framework,
        model=model,
        capabilities=capabilities,
        make_actor=Script(*(behaviours or (echo,))),
        named=named,
        mailbox=mailbox,
    )


def a_ref(*behaviours: Behaviour, named: bool = True) -> Ref:
    return Ref(served("model", *behaviours, named=named), lambda ref: None)


class Shelf:
    """A backend: the operator named some models, a request may name others."""

    def __init__(self, framework: str = "fake", *, named: Sequence[Served] = (), others: Sequence[Served] = ()) -> None:
        self.framework = framework
        self._named = tuple(named)
        self.others = {served.model: served for served in others}

    def named(self) -> Sequence[Served]:
        return self._named

    def on_demand(self, model: str, need: Capability) -> Served:
        if model not in self.others:
            raise GatewayError(Kind.MODEL_NOT_FOUND, f"no {model}", param="model")
        return self.others[model]

    def default(self, need: Capability) -> str | None:
        able = [served.model for served in (*self._named, *self.others.values()) if need in served.capabilities]
        return able[0] if able else None


@asynccontextmanager
async def running(directory: Directory) -> AsyncIterator[Directory]:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            directory.open(tasks)
            try:
                yield directory
            finally:
                directory.close()
                tasks.cancel_scope.cancel()
