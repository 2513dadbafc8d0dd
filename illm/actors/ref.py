"""The outside of an actor: its name, its state, and the way in.  Requests hold this; they never see the actor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Any

import anyio

from illm.actors.actor import Actor
from illm.actors.call import Call, unraised
from illm.actors.inbox import Inbox
from illm.core.capabilities import Capability
from illm.core.requests import Request
from illm.errors import GatewayError, Kind


class State(StrEnum):
    """Where an actor is in its life; the values appear in `/healthz`."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DOWN = "down"
    FAILED = "failed"
    DRAINING = "draining"
    STOPPED = "stopped"


_READY = State.READY  # a look-up in an enum costs a request more than the comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one actor will serve, before it exists.

    Args:
        framework, model: the names a request may use.
        capabilities: what the model can do.
        make_actor: called for every (re)start.
        named: the operator asked for it: it is started at once, counts for health and is never evicted.
        mailbox: how many calls may wait.
        supported: the request fields beyond the plain ones that this backend honours.
        fans_out: whether `n` choices or several prompts must be asked for one by one.
        details: called for `/healthz`; numbers and short strings only.
        lists: called for the models it serves just now, where it serves more than one; then `model` is only what
            stands for whichever of them is its default.
        optional: nobody said that it is there; that it is not is no fault.
        stand_ins: models that answer in this one's name what it cannot do itself, by capability.
        most_inputs: called for how many texts it embeds at once; None for any number.
        quick_start: its start takes moments, for which requests wait rather than be refused.
        unloads: what it holds may be let go while nobody asks for it, and is loaded again for the next who does.
        memory: called for about how many bytes it holds, or will.
    """

    framework: str
    model: str
    capabilities: frozenset[Capability]
    make_actor: Callable[[], Actor]
    named: bool = True
    mailbox: int = 1024
    supported: frozenset[str] = frozenset()
    fans_out: bool = False
    details: Callable[[], dict[str, Any]] = dict
    lists: Callable[[], Sequence[str]] | None = None
    optional: bool = False
    stand_ins: Mapping[Capability, str] = field(default_factory=dict)
    most_inputs: Callable[[], int | None] = lambda: None
    quick_start: bool = False
    unloads: bool = False
    memory: Callable[[], int] = int


class Ref:
    """One actor, seen from outside.

    Args:
        served: what it serves.
        start: asked, without waiting, to run the actor when the first call reaches an idle one; may refuse.

    Attributes:
        rested: it was unloaded, or never loaded, for want of requests or room: who asks next starts it and waits.
    """

    def __init__(self, served: Served, start: Callable[["Ref"], None]) -> None:
        self.served = served
        self._state = State.IDLE
        self.rested = False
        self._moved: anyio.Event | None = None
        self._problem: GatewayError | None = None
        self.inbox = Inbox(served.mailbox)
        self.restarts = 0
        self.used_at = monotonic()
        self._start = start

    @property
    def model(self) -> str:
        """The model's served name."""
        return self.served.model

    @property
    def models(self) -> Sequence[str]:
        """The names a request may use for it: at least one."""
        return (self.served.lists() if self.served.lists is not None else ()) or (self.served.model,)

    @property
    def placeholder(self) -> bool:
        """Whether its one name stands for models that nobody has listed yet."""
        return self.served.lists is not None and not self.served.lists()

    def answers_as(self, request: Request) -> str:
        """Return the model name that the answer to a request carries."""
        if self.served.lists is None:
            return self.served.model
        return self.models[0] if request.model in (None, self.served.model) else str(request.model)

    @property
    def state(self) -> State:
        """Where it is in its life.  The supervisor writes it; an actor only says whether it reaches what it serves."""
        return State.DOWN if self._state is State.READY and self.inbox.down is not None else self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    async def settled(self) -> None:
        """Wait until it neither starts nor is yet to be started."""
        while self._state in (State.IDLE, State.STARTING):
            if self._moved is None:
                self._moved = anyio.Event()
            await self._moved.wait()

    @property
    def problem(self) -> GatewayError | None:
        """What requests are told while it cannot serve."""
        return self.inbox.down or self._problem

    @problem.setter
    def problem(self, problem: GatewayError | None) -> None:
        self._problem = problem

    def call(self, request: Request) -> Call:
        """Hand a request to the actor.  Use as a context manager: leaving the block stops the work.

        Raises:
            GatewayError: it cannot be taken now: overloaded, not ready, failed, shutting down.
        """
        inbox = self.inbox
        if self._state is not _READY or inbox.down is not None:
            if self._state is State.IDLE:
                self._start(self)
            self.check()
        call = inbox.admit(request)
        self.used_at = call.queued_at
        return call

    def check(self) -> None:
        """Raise what a call would be refused with now, if it would: before work that is only done for the call."""
        refusal = self._refusal()
        if refusal is not None:
            # One exception may refuse many requests, and would collect the traceback of each.
            raise refusal.with_traceback(None)

    @property
    def busy(self) -> bool:
        """Whether evicting it would hurt someone."""
        return self.inbox.waiting > 0 or bool(self.inbox.active)

    def _refusal(self) -> GatewayError | None:
        match self.state:
            case State.READY | State.IDLE:
                return None
            case State.STARTING if not self.served.named or self.served.quick_start or self.rested:
                return None  # one started by a request has that request and its followers wait
            case State.STARTING:
                return GatewayError(Kind.NOT_READY, f"The model {self.model!r} is still loading")
            case State.RESTARTING:
                return GatewayError(Kind.NOT_READY, f"The backend of {self.model!r} crashed and is being restarted")
            case State.DRAINING | State.STOPPED:
                return unraised(self.inbox.closed or GatewayError(Kind.SHUTTING_DOWN, "The gateway is shutting down"))
            case _:
                problem = self.problem or GatewayError(Kind.BACKEND_DIED, f"The backend of {self.model!r} has failed")
                return unraised(problem)
