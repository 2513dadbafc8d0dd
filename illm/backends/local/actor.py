"""The actor of a local model: owns its threads, hands calls to them, and spreads what they make over the replies.

It takes no more from its mailbox than the engine can hold: a few calls beyond what runs, so that prompts are ready
when a place falls free.  The rest waits where it can be counted, refused and withdrawn.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

import anyio

from illm.actors.call import Call
from illm.actors.inbox import Inbox
from illm.backends.local.threads import Asking, EngineThread, Outbox
from illm.backends.local.work import Batch, Describing
from illm.core.events import Done, Failed
from illm.errors import GatewayError, Kind
from illm.loop.tasks import poster

STEP_LIMIT = 300.0
"""Seconds that one step may take before the device counts as wedged."""

_WATCH_EVERY = 5.0
_STOP_LIMIT = 10.0


class EngineDiedError(Exception):
    """The engine thread ended on its own; the supervisor makes a new one."""


class Driver(Protocol):
    """What drives an engine: a thread, or a child process."""

    def start(self) -> None:
        """Begin to load."""

    def submit(self, key: int, call: Asking) -> None:
        """Have a call tokenised and taken up; its events will carry `key`."""

    def abort(self, key: int) -> None:
        """Drop a call; takes effect before the next step."""

    def stop(self) -> None:
        """Ask it to end after what it is doing."""

    @property
    def alive(self) -> bool:
        """Whether it still holds the model, be it wedged."""

    @property
    def stuck_for(self) -> float:
        """Seconds that the running step has taken so far."""


class Slot:
    """What outlives an actor: its thread where that hangs, and where `/healthz` finds the counters.

    A thread that lives keeps its slot alive, through the actor that it reports to.
    """

    def __init__(self) -> None:
        self.thread: Driver | None = None
        self.gone = anyio.Event()
        self.work: Describing | None = None
        self.progress: str | None = None

    def note(self, text: str) -> None:
        """Take down how far loading is."""
        self.progress = text

    def describe(self) -> dict[str, Any]:
        """Return what is known of the model right now."""
        if self.work is not None:
            return self.work.describe()
        return {"progress": self.progress} if self.progress else {}


class LocalActor:
    """One local model.

    Args:
        name: the model's served name.
        load: loads it and returns its work; runs where the engine does.
        slot: shared with the actors before and after this one.
        capacity: calls that may be with the engine at once.
        step_limit: seconds; see `STEP_LIMIT`.  The same holds for preparing one prompt.
        drive: makes what drives the engine, from what `EngineThread` takes.
    """

    def __init__(
        self,
        name: str,
        load: Callable[..., Any],
        slot: Slot,
        *,
        capacity: int,
        step_limit: float = STEP_LIMIT,
        drive: Callable[..., Driver] = EngineThread,
    ) -> None:
        self._name, self._load, self._slot, self._drive = name, load, slot, drive
        self._capacity, self._step_limit = capacity, step_limit
        self._calls: dict[int, Call] = {}
        self._ids = count()
        self._room = anyio.Event()
        self._loaded = anyio.Event()
        self._ended = anyio.Event()
        self._error: BaseException | None = None
        self._wedged = False
        self._over = False

    async def run(self, inbox: Inbox, ready: Callable[[], None]) -> None:
        """See `illm.actors.actor.Actor`."""
        slot = self._slot
        await self._wait_for_the_last(slot)
        post, gone = poster(), anyio.Event()
        slot.gone, slot.progress = gone, None
        slot.thread = thread = self._drive(
            self._name,
            self._load,
            Outbox(post, self._deliver),
            loaded=lambda work: post(lambda: self._note_loaded(work)),
            ended=lambda error: post(lambda: self._note_ended(error)),
            gone=lambda: post(gone.set),
        )
        thread.start()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, thread)
                await self._loaded.wait()
                ready()
                await self._take_calls(inbox, thread)
        finally:
            self._over = True
            thread.stop()
            slot.work = slot.progress = None
            self._hang_up()
            # After a crash there is nothing to wait for here: who was hung up on must not find this actor ready.
            if not (self._ended.is_set() or self._wedged):
                with anyio.move_on_after(_STOP_LIMIT, shield=True):
                    await gone.wait()
            if not thread.alive:
                slot.thread = None

    async def _wait_for_the_last(self, slot: Slot) -> None:
        """Let the threads before this one go: two copies of a model may not fit, and the old one holds the device."""
        last = slot.thread
        if last is None:
            return
        if last.stuck_for <= self._step_limit:
            with anyio.move_on_after(_STOP_LIMIT):
                await slot.gone.wait()
        if last.alive:
            raise GatewayError(Kind.BACKEND_DIED, f"The last engine of {self._name!r} hangs and cannot be ended")

    async def _take_calls(self, inbox: Inbox, thread: Driver) -> None:
        while True:
            while len(self._calls) >= self._capacity:
                self._room = anyio.Event()
                await self._room.wait()
            call = await inbox.take()
            key = next(self._ids)
            self._calls[key] = call
            call.on_leave = lambda key=key: self._leave(key, thread)
            thread.submit(key, call)

    def _leave(self, key: int, thread: Driver) -> None:
        self._settle(key)
        thread.abort(key)

    def _deliver(self, batch: Batch) -> None:
        for key, events in batch:
            call = self._calls.get(key)
            if call is None or call.left or call.reply.closed:  # closed by another: the gateway shuts down
                continue
            last = events[-1] if events else None
            if isinstance(last, Done | Failed):
                call.finish(*events)
                self._settle(key)
            else:
                call.reply.put_nowait(*events)

    def _settle(self, key: int) -> None:
        call = self._calls.pop(key, None)
        if call is not None:
            call.finish()
            self._room.set()

    def _hang_up(self) -> None:
        """Answer everyone; what their thread still posts finds nobody."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(GatewayError(Kind.BACKEND_DIED, f"The engine of {self._name!r} ended while it answered"))

    async def _watch(self, thread: Driver) -> None:
        """End the actor when its thread has ended, or has been in one step for too long."""
        pause = min(_WATCH_EVERY, self._step_limit)
        while not self._ended.is_set():
            with anyio.move_on_after(pause):
                await self._ended.wait()
            if not self._ended.is_set() and thread.stuck_for > self._step_limit:
                self._wedged = True
                raise GatewayError(Kind.BACKEND_DIED, f"The engine of {self._name!r} hangs")
        if isinstance(self._error, GatewayError):
            raise self._error
        raise EngineDiedError(self._name) from self._error

    def _note_loaded(self, work: Describing) -> None:
        if not self._over:  # else the model would stay for as long as the slot does
            self._slot.work = work
            self._loaded.set()

    def _note_ended(self, error: BaseException | None) -> None:
        self._error = error
        self._ended.set()
