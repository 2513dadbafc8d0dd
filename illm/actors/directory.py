"""From a request to the actor that will answer it.

`choose` decides, on names and capabilities alone; `Directory` acts: it starts what must run, and lets the least
recently used go when too many models that nobody named at start are loaded.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import anyio
from anyio.abc import TaskGroup

from illm.actors.backend import Backend
from illm.actors.ref import Ref, Served, State
from illm.actors.supervisor import Policy, supervise
from illm.core.capabilities import Capability
from illm.core.requests import Embed, Request
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.directory")

STRANGERS = 64
LIVE = (State.STARTING, State.READY, State.RESTARTING, State.DOWN)


class Directory:
    """Every backend, and every actor that exists.

    Args:
        backends: by framework name, in the order they are shown.
        default: the framework of a request that names none.
        max_loaded: how many models that only requests named may be loaded at once.
        policy: how crashed actors are restarted.
        aliases: frameworks that others answer for, and which: the same actors under a second name.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        default: str,
        max_loaded: int = 2,
        policy: Policy | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.backends: Mapping[str, Backend] = {backend.framework: backend for backend in backends}
        self.aliases = aliases or {}
        self.default = self.aliases.get(default, default)
        self.max_loaded = max_loaded
        self.draining = False
        self._policy = policy or Policy()
        self._refs: dict[tuple[str, str], Ref] = {}
        self._scopes: dict[Ref, anyio.CancelScope] = {}
        self._stopped: dict[Ref, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        for backend in backends:
            for served in backend.named():
                self._refs[served.framework, served.model] = Ref(served, self._start)

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._refs.values())

    def open(self, tasks: TaskGroup) -> None:
        """Start what the operator named, in a task group that outlives every request."""
        self._tasks = tasks
        for ref in tuple(self):
            if ref.served.named:
                self._start(ref)

    def drain(self) -> None:
        """Take no more; what runs may finish."""
        self.draining = True

    def close(self) -> None:
        """Answer everybody who waits, and stop every actor."""
        self.draining = True
        # Actors first: one that still takes from its mailbox must not find it closed.
        for scope in tuple(self._scopes.values()):
            scope.cancel()
        for ref in tuple(self):
            ref.inbox.refuse(_closing())
            if ref not in self._scopes:
                ref.inbox.close(_closing())

    def find(self, request: Request) -> Ref:
        """Return the actor for a request, making (not yet starting) it where only this request named it.

        Raises:
            GatewayError: unknown framework or model, missing capability, backend not configured.
        """
        if self.draining:
            raise _closing()
        framework = self._framework(request.framework, request.model)
        backend, need = self.backends[framework], request.needs
        known = {model: ref.served for (name, model), ref in self._refs.items() if name == framework}
        served = choose(backend, known, request.model, need, strict=not isinstance(request, Embed) or request.explicit)
        key = (framework, served.model)
        if key not in self._refs:
            self._make_room_for_names()
            self._refs[key] = Ref(served, self._start)
        return self._refs[key]

    def list(self, framework: str | None = None) -> Sequence[Ref]:
        """Return the actors of one framework, or of all.  Raises `GatewayError` for an unknown framework."""
        if framework is not None:
            framework = self._known(framework)
        return [ref for ref in self if framework in (None, ref.served.framework)]

    @property
    def status(self) -> str:
        """The one word of `/healthz`: what nobody named, or said is there, does not count."""
        states = {ref.state for ref in self if ref.served.named and not ref.served.optional}
        if self.draining:
            return "draining"
        if states & {State.IDLE, State.STARTING}:
            return "loading"
        return "ok" if states <= {State.READY} else "degraded"

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
        if self._tasks is None or self.draining:
            return
        gone = None if ref.served.named else self._evict_for(ref)
        ref.state = State.STARTING
        self._stopped[ref] = anyio.Event()
        self._scopes[ref] = anyio.CancelScope()
        self._tasks.start_soon(self._run, ref, gone, name=f"illm:{ref.served.framework}/{ref.model}")

    async def _run(self, ref: Ref, after: anyio.Event | None) -> None:
        try:
            with self._scopes[ref]:
                if after is not None:
                    await after.wait()
                await supervise(ref, self._policy)
        finally:
            self._scopes.pop(ref, None)
            self._stopped.pop(ref).set()
            if self.draining:
                ref.inbox.close(_closing())
            if not ref.served.named:
                self._forget(ref)
                ref.inbox.close(GatewayError(Kind.NOT_READY, f"The model {ref.model!r} was unloaded; ask again"))

    def _forget(self, ref: Ref) -> None:
        key = (ref.served.framework, ref.model)
        if self._refs.get(key) is ref:  # else a newer actor of the same name has taken the place
            del self._refs[key]

    def _make_room_for_names(self) -> None:
        """Bound what requests can make us remember: names that failed to load, or never started."""
        strangers = [ref for ref in self if not ref.served.named and ref.state not in LIVE]
        if len(strangers) < STRANGERS:
            return
        for ref in [ref for ref in strangers if ref.state is State.IDLE]:
            self._forget(ref)
            ref.inbox.close(GatewayError(Kind.NOT_READY, "Ask again"))
        if all(ref.state is not State.IDLE for ref in strangers):
            raise GatewayError(Kind.OVERLOADED, "Too many models that failed to load were asked for; try again later")

    def _evict_for(self, ref: Ref) -> anyio.Event | None:
        loaded = [other for other in self if other is not ref and not other.served.named and other.state in LIVE]
        if len(loaded) < self.max_loaded:
            return None
        idle = [other for other in loaded if not other.busy]
        if not idle:
            raise GatewayError(Kind.OVERLOADED, f"{len(loaded)} other models are loaded and busy; try again later")
        oldest = min(idle, key=lambda other: other.used_at)
        logger.info("unloading %s: least recently used, to make room for %s", oldest.model, ref.model)
        self._forget(oldest)  # at once, so that nobody calls an actor that is on its way out
        oldest.state = State.STOPPED
        self._scopes[oldest].cancel()
        return self._stopped[oldest]


def choose(
    backend: Backend, known: Mapping[str, Served], model: str | None, need: Capability, *, strict: bool = True
) -> Served:
    """Decide which model of one backend answers.

    Args:
        backend: the framework.
        known: what it serves already, by model.
        model: the name in the request, if any.
        need: the capability the request stands on.
        strict: whether the named model itself must have it; else the backend's default for `need` steps in
            (an embeddings request that names the chat model).

    Raises:
        GatewayError: `MODEL_NOT_FOUND`, `CAPABILITY`, or the backend's own refusal.
    """
    if model is not None:
        served = known.get(model) or backend.on_demand(model, need)
        if need in served.capabilities:
            return served
        if strict:
            raise _incapable(backend.framework, model, need)
    fallback = backend.default(need)
    if fallback is None:
        raise _incapable(backend.framework, model, need)
    served = known.get(fallback) or backend.on_demand(fallback, need)
    if need not in served.capabilities:
        raise _incapable(backend.framework, fallback, need)
    return served


def capabilities(refs: Iterable[Ref]) -> list[str]:
    """Return what these actors can do together, sorted."""
    return sorted({str(capability) for ref in refs for capability in ref.served.capabilities})


def _closing() -> GatewayError:
    return GatewayError(Kind.SHUTTING_DOWN, "The gateway is shutting down")


def _incapable(framework: str, model: str | None, need: Capability) -> GatewayError:
    who = f"The model {model!r} of backend {framework!r}" if model else f"The backend {framework!r}"
    return GatewayError(Kind.CAPABILITY, f"{who} does not support {need}", param="model" if model else None)
