"""A model without torch: a `Work` whose every stage a test can hold, and an engine that makes letters."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from illm.actors.ref import Ref, Served
from illm.backends.local.actor import LocalActor, Slot
from illm.backends.local.work import Batch
from illm.core.events import Delta, Done, Usage
from illm.core.requests import Chat, Message, Request, Sampling, Text
from illm.errors import GatewayError, Kind

PATIENCE = 20
"""Seconds after which a gate that nobody opened fails its test."""

DONE = Done(Usage(1, 1))


def chat(text: str) -> Chat:
    return Chat(messages=(Message("user", (Text(text),)),), sampling=Sampling())


class Gate:
    """Open unless a test shuts it; says when somebody stands before it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def shut(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_(self) -> None:
        self.reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"


@dataclass
class Letters:
    """Each step gives every call one letter, until its prompt is used up.  Some prompts do as they say."""

    preparing: Gate = field(default_factory=Gate)
    stepping: Gate = field(default_factory=Gate)
    running: dict[int, str] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    steps: int = 0
    crash: BaseException | None = None
    threads: set[str] = field(default_factory=set)

    def prepare(self, request: Request) -> str:
        assert isinstance(request, Chat)
        text = request.messages[0].text
        self.preparing.pass_()
        if text == "too long":
            raise GatewayError(Kind.CONTEXT_LENGTH, "too long")
        if text == "unpreparable":
            raise ValueError("secret")
        if text == "panic":
            raise BaseException("what native code throws")
        self.prepared.append(text)
        return text

    def add(self, key: int, prepared: str) -> None:
        self.threads.add(threading.current_thread().name)
        if prepared == "no room":
            raise GatewayError(Kind.CONTEXT_LENGTH, "no room")
        if prepared == "unaddable":
            raise ValueError("secret")
        self.running[key] = prepared

    def abort(self, key: int) -> None:
        if self.running.pop(key, None) is not None:
            self.aborted.append(key)

    def step(self) -> Batch:
        self.threads.add(threading.current_thread().name)
        self.stepping.pass_()
        if self.crash is not None:
            raise self.crash
        self.steps += 1
        batch: Batch = []
        for key, text in tuple(self.running.items()):
            delta = Delta(0, text[0], 1)
            if len(text) == 1:
                del self.running[key]
                batch.append((key, (delta, DONE)))
            else:
                if text != "…":
                    self.running[key] = text[1:]
                batch.append((key, (delta,)))
        return batch

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def describe(self) -> dict[str, Any]:
        return {"steps": self.steps}


class Model:
    """Loads `works` one after another, and the actors over them share one slot."""

    def __init__(self, *works: Letters | Exception, capacity: int = 4, step_limit: float = 1000.0) -> None:
        self.works = list(works) or [Letters()]
        self.loading = Gate()
        self.loads = 0
        self.slot = Slot()
        self._capacity, self._step_limit = capacity, step_limit

    def load(self) -> Letters:
        work = self.works[min(self.loads, len(self.works) - 1)]
        self.loads += 1
        self.loading.pass_()
        if isinstance(work, Exception):
            raise work
        return work

    def actor(self) -> LocalActor:
        return LocalActor("letters", self.load, self.slot, capacity=self._capacity, step_limit=self._step_limit)

    def ref(self, *, named: bool = True, start: Callable[[Ref], None] = lambda ref: None, mailbox: int = 64) -> Ref:
        return Ref(
            Served(
                framework="transformers",
                model="letters",
                capabilities=frozenset(),
                make_actor=self.actor,
                named=named,
                mailbox=mailbox,
                details=self.slot.describe,
            ),
            start,
        )
