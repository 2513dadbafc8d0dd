"""A backend of framework `tgi` that says what a test wants, behind the whole application, on a real socket."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import httpx

from illm.actors.actor import Respond, TaskActor
from illm.actors.backend import Backend, Unconfigured
from illm.actors.directory import Directory
from illm.actors.ref import Served
from illm.asgi.app import Gateway
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Event, Finish, Logprob, Usage
from illm.core.requests import Request
from illm.errors import GatewayError
from illm.server import serve

PATIENCE = 20

Batch = Sequence[Event]


def token(number: int, text: str, *, special: bool = False, top: Sequence[str] = (), index: int = 0) -> Delta:
    """One token as the local engine makes it."""
    others = tuple(Logprob(other, -2.0, id=90 + at) for at, other in enumerate(top))
    logprob = Logprob(text, -0.25 * number, None, others, number, special)
    return Delta(index, "" if special else text, 1, (logprob,))


BLUE: Sequence[Batch] = (
    (token(1, " Bl"),),
    (token(2, "ué"),),
    (token(3, "</s>", special=True), Finish(0, "stop"), Done(Usage(5, 3))),
)


@dataclass
class Script:
    """What the backend does, and what it was asked.

    Args:
        batches: events, each batch at once, a `GatewayError` among them raised.
        gates: batch number → event that is awaited before it.
    """

    batches: Sequence[Batch | GatewayError] = BLUE
    gates: dict[int, anyio.Event] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    supported: frozenset[str] = frozenset()
    left: anyio.Event = field(default_factory=anyio.Event)


class Scripted(TaskActor):
    """Plays the script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def handle(self, request: Request, respond: Respond) -> None:
        """See `TaskActor.handle`."""
        script = self._script
        script.requests.append(request)
        try:
            for number, batch in enumerate(script.batches):
                if number in script.gates:
                    await script.gates[number].wait()
                if isinstance(batch, GatewayError):
                    raise batch
                await respond(*batch)
        except BaseException:
            script.left.set()
            raise


class ScriptedTGI:
    """The framework."""

    framework = "tgi"

    def __init__(self, script: Script) -> None:
        self._served = Served(
            framework="tgi",
            model="org/model",
            capabilities=frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.STREAMING}),
            make_actor=partial(Scripted, script),
            supported=script.supported,
            details=lambda: {"context": 96},
        )

    def named(self) -> Sequence[Served]:
        """See `Backend.named`."""
        return (self._served,)

    def on_demand(self, model: str, need: Capability) -> Served:
        """See `Backend.on_demand`."""
        return self._served

    def default(self, need: Capability) -> str | None:
        """See `Backend.default`."""
        return self._served.model


def gateway(script: Script | None, **said: object) -> Gateway:
    """Return an application over a script, or over a TGI that nobody configured."""
    backend: Backend = Unconfigured("tgi", "TGI base_url is not configured") if script is None else ScriptedTGI(script)
    config = Config(framework="tgi", **said)  # type: ignore[arg-type]
    return Gateway(config, lambda: Directory([backend], default="tgi"))


@asynccontextmanager
async def serving(app: Gateway, *, ready: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Serve while the block lasts; yields a client, once requests are taken."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        [(host, port), *_] = await tasks.start(partial(serve, app, port=0, shutdown=stop))
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=PATIENCE) as client:
            with anyio.fail_after(3 * PATIENCE):
                while ready and (await client.get("/healthz")).status_code != 200:
                    pass
            yield client
        stop.set()
