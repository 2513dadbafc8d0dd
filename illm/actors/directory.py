"""From a request to the actor that will answer it.

`choose` decides; `Directory` acts: it starts what must run, and lets the least recently used go when too many models
that nobody named at start are loaded.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import time

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from illm.actors.backend import Backend, Unconfigured
from illm.actors.call import unraised
from illm.actors.choice import choose
from illm.actors.ref import Ref, State
from illm.actors.resting import to_go, unload_idle
from illm.actors.supervisor import Policy, supervise
from illm.core.capabilities import Capability
from illm.core.requests import Embed, Request
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.directory")

STRANGERS = 64
"""How many models that are not loaded, and that only requests named, are remembered."""

REMEMBERED = 1024
"""How many answers to `find` are remembered; the names in them come from requests."""

LIVE = (State.STARTING, State.READY, State.RESTARTING, State.DOWN)


class Directory:
    """Every backend, and every actor that exists.

    Args:
        backends: by framework name, in the order they are shown.
        default: the framework of a request that names none.
        max_loaded: how many models that only requests named may be loaded at once.
        policy: how crashed actors are restarted.
        aliases: frameworks that others answer for, and which: the same actors under a second name.
        keep_alive: seconds after which a model that nobody asks for is unloaded; 0 for never.
        memory_budget: bytes for all loaded models together; 0 for no limit.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        default: str,
        max_loaded: int = 2,
        policy: Policy | None = None,
        aliases: Mapping[str, str] | None = None,
        keep_alive: float = 0.0,
        memory_budget: int = 0,
    ) -> None:
        self.backends: Mapping[str, Backend] = {backend.framework: backend for backend in backends}
        self.aliases = aliases or {}
        self.default = self.aliases.get(default, default)
        self.max_loaded = max_loaded
        self._keep_alive, self._memory_budget = keep_alive, memory_budget
        self.draining = False
        self.created = int(time())
        """Seconds since 1970: since when its models can be asked for, as far as anybody here knows."""
        self._policy = policy or Policy()
        self._refs: dict[tuple[str, str], Ref] = {}
        self._scopes: dict[Ref, anyio.CancelScope] = {}
        self._leaving: dict[Ref, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._found: dict[tuple[str | None, str | None, Capability, bool], Ref] = {}
        """What `find` has answered, as long as the actors and their lists of models stay what they are."""
        self._lists: Sequence[Callable[[], Sequence[str]]] = ()
        self._listed: Sequence[Sequence[str]] = ()
        for backend in self.backends.values():
            for served in backend.named():
                self._refs[served.framework, served.model] = Ref(served, self._start)
        self._changed()

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._refs.values())

    def open(self, tasks: TaskGroup) -> None:
        """Start what the operator named, and what has been called already, in a task group that outlives requests."""
        self._tasks = tasks
        for ref in tuple(self):
            if ref.served.named or ref.inbox.waiting:
                try:
                    self._start(ref)
                except GatewayError as error:
                    self._no_room(ref, error)
        if self._keep_alive:
            tasks.start_soon(unload_idle, self, self._unload, self._keep_alive, name="illm:keep-alive")

    def drain(self) -> None:
        """Take no more; what runs may finish."""
        self.draining = True

    def close(self) -> None:
        """Answer everybody, and stop every actor.  Idempotent."""
        self.draining = True
        # Actors first: one that still ran would take the next request of a caller that was just hung up on.
        for scope in tuple(self._scopes.values()):
            scope.cancel()
        for ref in tuple(self):
            ref.inbox.close(_closing())

    def find(self, request: Request) -> Ref:
        """Return the actor for a request, making (not yet starting) it where only this request named it.

        Raises:
            GatewayError: unknown framework or model, missing capability, backend not configured.
        """
        if self.draining:
            raise _closing()
        listed = [lists() for lists in self._lists]
        if listed != self._listed:  # mostly the same objects
            self._found.clear()
            self._listed = listed
        need, strict = request.needs, not isinstance(request, Embed) or request.explicit
        asked = (request.framework, request.model, need, strict)
        ref = self._found.get(asked)
        if ref is None:
            ref = self._look_up(request.framework, request.model, need, strict=strict)
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[asked] = ref
        return ref

    def list(self, framework: str | None = None) -> Sequence[Ref]:
        """Return the actors of one framework, or of all.  Raises `GatewayError` for an unknown framework."""
        if framework is not None:
            framework = self._known(framework)
        return [ref for ref in self if framework in (None, ref.served.framework)]

    async def settled(self) -> None:
        """Wait until all that the operator named has started, or failed to: until `status` is not `loading`."""
        for ref in tuple(self):
            if ref.served.named and not (ref.served.optional or ref.rested):
                await ref.settled()

    @property
    def status(self) -> str:
        """The one word of `/healthz`: what nobody named, or said is there, does not count."""
        # What was let go, or waits for somebody to ask, is as it should be.
        states = {
            ref.state
            for ref in self
            if ref.served.named
            and not ref.served.optional
            and not (ref.rested and ref.state in (State.IDLE, State.STARTING))
        }
        if self.draining:
            return "draining"
        if isinstance(self.backends.get(self.default), Unconfigured):
            return "degraded"  # the operator chose it, and every request that names no other is refused
        if states & {State.IDLE, State.STARTING}:
            return "loading"
        return "ok" if states <= {State.READY} else "degraded"

    def _look_up(self, framework: str | None, model: str | None, need: Capability, *, strict: bool) -> Ref:
        framework = self._framework(framework, model)
        known = {name: ref.served for (home, name), ref in self._refs.items() if home == framework}
        served = choose(self.backends[framework], known, model, need, strict=strict)
        key = (framework, served.model)
        if key not in self._refs:
            self._make_room_for_names()
            self._refs[key] = Ref(served, self._start)
            self._changed()
        return self._refs[key]

    def _changed(self) -> None:
        """Another actor is there, or one less."""
        self._found.clear()
        self._lists = [ref.served.lists for ref in self if ref.served.lists is not None]

    def _framework(self, asked: str | None, model: str | None) -> str:
        if asked is not None:
            return self._known(asked)
        homes = [ref.served.framework for ref in self if model == ref.model or model in ref.models]
        return self.default if not homes or self.default in homes else homes[0]

    def _known(self, framework: str) -> str:
        framework = self.aliases.get(framework, framework)
        if framework not in self.backends:
            names = ", ".join((*self.backends, *self.aliases))
            raise GatewayError(
                Kind.INVALID_REQUEST, f"Unknown framework {framework!r}; there are: {names}", param="framework"
            )
        return framework

    def _start(self, ref: Ref) -> None:
        if self.draining:
            raise _closing()
        if self._tasks is None:
            return  # its calls wait for `open`
        if not ref.served.named:
            self._evict_for(ref)
        if self._memory_budget:
            loaded = [other for other in self if other is not ref and other.state in LIVE]
            for other in to_go(ref, loaded, self._memory_budget):
                self._unload(other, f"{ref.model} needs its memory")
        ref.state = State.STARTING
        self._scopes[ref] = anyio.CancelScope()
        after = tuple(self._leaving.values())
        self._tasks.start_soon(self._run, ref, after, name=f"illm:{ref.served.framework}/{ref.model}")

    async def _run(self, ref: Ref, after: Iterable[anyio.Event]) -> None:
        try:
            with self._scopes[ref]:
                # Whoever has to go holds its memory until it has gone; one that left before it ever ran makes no room.
                for gone in after:
                    await gone.wait()
                await anyio.lowlevel.checkpoint()  # cancelled already, it should not even begin to load
                await supervise(ref, self._policy)
        finally:
            del self._scopes[ref]
            ref.state = State.STOPPED
            if ref in self._leaving:
                self._leaving.pop(ref).set()
            if not ref.served.named:
                self._forget(ref, GatewayError(Kind.NOT_READY, f"The model {ref.model!r} was unloaded; ask again"))

    def _forget(self, ref: Ref, told: GatewayError) -> None:
        """Let go of an actor that nobody may call any more: who found it earlier is told why."""
        key = (ref.served.framework, ref.model)
        if self._refs.get(key) is ref:  # else a newer actor of the same name has taken the place
            del self._refs[key]
            self._changed()
        ref.state = State.STOPPED
        ref.inbox.close(told)

    def _make_room_for_names(self) -> None:
        """Bound what requests can make us remember: names that failed to load, or never started."""
        strangers = [ref for ref in self if not ref.served.named and ref.state not in LIVE]
        if len(strangers) < STRANGERS:
            return
        idle = [ref for ref in strangers if ref.state is State.IDLE]
        if not idle:
            raise GatewayError(Kind.OVERLOADED, "Too many models that failed to load were asked for; try again later")
        for ref in idle:
            self._forget(ref, GatewayError(Kind.NOT_READY, "Too many other models were asked for; ask again"))

    def _evict_for(self, ref: Ref) -> None:
        loaded = [other for other in self if other is not ref and not other.served.named and other.state in LIVE]
        if len(loaded) < self.max_loaded:
            return
        idle = [other for other in loaded if not other.busy]
        if not idle:
            raise GatewayError(Kind.OVERLOADED, f"{len(loaded)} other models are loaded and busy; try again later")
        oldest = min(idle, key=lambda other: other.used_at)
        self._unload(oldest, f"least recently used, to make room for {ref.model}")

    def _no_room(self, ref: Ref, error: GatewayError) -> None:
        """A model that was named and cannot be loaded now is loaded when it can be and somebody asks; or never."""
        ref.inbox.refuse(error)
        logger.warning("%s is not loaded: %s", ref.model, error.message)
        if error.kind is Kind.OVERLOADED:
            ref.rested = True
        else:
            ref.state, ref.problem = State.FAILED, unraised(error)

    def _unload(self, ref: Ref, why: str) -> None:
        logger.info("unloading %s: %s", ref.model, why)
        self._leaving[ref] = anyio.Event()
        if ref.served.named:
            successor = Ref(ref.served, self._start)
            successor.rested = True
            self._refs[ref.served.framework, ref.model] = successor
            self._changed()
        # At once, so that nobody calls an actor that is on its way out.
        self._forget(ref, GatewayError(Kind.NOT_READY, f"The model {ref.model!r} was unloaded; ask again"))
        self._scopes[ref].cancel()


def capabilities(refs: Iterable[Ref]) -> list[str]:
    """Return what these actors can do together, sorted."""
    return sorted({str(capability) for ref in refs for capability in ref.served.capabilities})


def _closing() -> GatewayError:
    return GatewayError(Kind.SHUTTING_DOWN, "The gateway is shutting down")
