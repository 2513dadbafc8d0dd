"""A backend that does what the prompt says, so that a test can hold a request at any point of its life.

The first word of the last message is a verb of `VERBS`; the second one, where there is any, names a *case*, whose
events other prompts can set and await.  That works in one process and across a socket alike:

    hold a    says nothing until the case is released, or its caller leaves
    drip a    says one token, and one more each time the case is released, for ever
    step a    releases the case
    gone a    answers when the work of case `a` has been stopped
    held a    answers when case `a` has reached the point where it waits
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from illm.actors.actor import BackendBrokenError, Respond, TaskActor
from illm.actors.directory import Directory
from illm.actors.ref import Served
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Finish, Usage, Vectors
from illm.core.requests import Chat, Completion, Embed, Request
from illm.errors import GatewayError, Kind

TEXT = frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.STREAMING})


class Case:
    """The events of one named request."""

    def __init__(self) -> None:
        self.held = anyio.Event()
        self.gone = anyio.Event()
        self.released = 0
        self._step = anyio.Event()

    def step(self) -> None:
        self.released += 1
        step, self._step = self._step, anyio.Event()
        step.set()

    async def wait(self, number: int) -> None:
        """Wait for the release of that number."""
        while self.released < number:
            self.held.set()
            await self._step.wait()


@dataclass
class Stage:
    """What the actors of one backend share with the test."""

    cases: dict[str, Case] = field(default_factory=lambda: defaultdict(Case))
    requests: list[Request] = field(default_factory=list)
    starting: anyio.Event | None = None
    """Set it to keep actors in `starting` until it is set."""


def words(*texts: str, index: int = 0) -> tuple[Delta, ...]:
    return tuple(Delta(index, text, 1) for text in texts)


async def echo(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    choices = request.sampling.n * len(getattr(request, "prompts", ("",)))
    for index in range(choices):
        for at, word in enumerate(rest):
            await respond(*words(word if at == 0 else f" {word}", index=index))
        await respond(Finish(index, "stop"))
    return len(rest) * choices


async def hold(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await stage.cases[name].wait(1)
    return await echo(stage, request, respond, "held")


async def drip(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    number = 0
    while True:
        await respond(*words(f"{number} "))
        number += 1
        await stage.cases[name].wait(number)


async def step(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    stage.cases[name].step()
    return await echo(stage, request, respond, "ok")


async def gone(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await stage.cases[name].gone.wait()
    return await echo(stage, request, respond, "ok")


async def held(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await stage.cases[name].held.wait()
    return await echo(stage, request, respond, "ok")


async def refuse(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    raise GatewayError(Kind.UPSTREAM, "refused as told")


async def crash(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    raise ZeroDivisionError("crashed as told")


async def late_crash(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await respond(*words("begun"))
    await stage.cases[name].wait(1)
    raise ZeroDivisionError("crashed as told")


async def late_refusal(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await respond(*words("begun"))
    await stage.cases[name].wait(1)
    raise GatewayError(Kind.UPSTREAM, "refused as told")


async def die(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    raise BackendBrokenError("died as told")


async def late_death(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await respond(*words("begun"))
    await stage.cases[name].wait(1)
    raise BackendBrokenError("died as told")


async def unfinished(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    """Be done without having finished any choice."""
    await respond(*words("begun"))
    return 1


async def nonsense(stage: Stage, request: Request, respond: Respond, *rest: str) -> int:
    """Answer with what no text can hold: a bug of the backend that the encoder meets."""
    await respond(Vectors((b"",)))
    return 0


async def late_nonsense(stage: Stage, request: Request, respond: Respond, name: str) -> int:
    await respond(*words("begun"))
    await stage.cases[name].wait(1)
    await respond(Vectors((b"",)))
    return 0


async def flood(stage: Stage, request: Request, respond: Respond, size: str, pieces: str = "1") -> int:
    """Say `size` letters in each of `pieces` tokens."""
    for _ in range(int(pieces)):
        await respond(*words("x" * int(size)))
    await respond(Finish(0, "length"))
    return int(pieces)


Verb = Callable[..., Awaitable[int]]
VERBS: dict[str, Verb] = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        echo,
        hold,
        drip,
        step,
        gone,
        held,
        refuse,
        crash,
        late_crash,
        late_refusal,
        die,
        late_death,
        unfinished,
        nonsense,
        late_nonsense,
        flood,
    )
}


class ScriptedActor(TaskActor):
    def __init__(self, stage: Stage, concurrency: int) -> None:
        self.stage = stage
        self.concurrency = concurrency

    async def start(self) -> None:
        if self.stage.starting is not None:
            await self.stage.starting.wait()

    async def handle(self, request: Request, respond: Respond) -> None:
        self.stage.requests.append(request)
        if isinstance(request, Embed):
            await respond(Vectors(tuple(vector(text) for text in request.inputs)), Done(Usage(len(request.inputs))))
            return
        verb, *rest = prompt_of(request).split() or ["echo"]
        try:
            tokens = await VERBS[verb](self.stage, request, respond, *rest)
        except (anyio.get_cancelled_exc_class(), anyio.BrokenResourceError):  # stopped, or nobody listens
            self.stage.cases[rest[0]].gone.set()
            raise
        await respond(Done(Usage(prompt_tokens=1 + len(rest), completion_tokens=tokens)))


def prompt_of(request: Request) -> str:
    match request:
        case Chat(messages=[*_, last]):
            return last.text
        case Completion(prompts=[str(text), *_]):
            return text
        case _:
            return ""


def vector(text: object) -> bytes:
    """Three float32, little-endian: the length of the text, 0.5, -1."""
    import struct

    return struct.pack("<3f", len(str(text)), 0.5, -1)


class Scripted:
    """A backend of four models: `script` (the default), `narrow` (one call at a time, two may wait), `embed`, and
    `stranger`, which only a request can name.
    """

    def __init__(self, stage: Stage | None = None, *, framework: str = "transformers") -> None:
        self.stage = stage or Stage()
        self.framework = framework

    def named(self) -> list[Served]:
        return [
            self._served("script", TEXT),
            self._served("narrow", TEXT, concurrency=1, mailbox=2),
            self._served("embed", frozenset({Capability.EMBEDDINGS})),
        ]

    def on_demand(self, model: str, need: Capability) -> Served:
        if model != "org/stranger":
            raise GatewayError(Kind.MODEL_NOT_FOUND, "no such model", param="model")
        return self._served(model, TEXT, named=False)

    def default(self, need: Capability) -> str | None:
        return {Capability.EMBEDDINGS: "embed"}.get(need, "script")

    def _served(self, model: str, offers: frozenset[Capability], *, concurrency: int = 64, **more) -> Served:
        return Served(
            framework=self.framework,
            model=model,
            capabilities=offers,
            make_actor=lambda: ScriptedActor(self.stage, concurrency),
            **more,
        )


def directory(stage: Stage | None = None) -> Directory:
    """The scripted backend in the place of the local one, beside the others as a fresh installation has them."""
    from illm.build import PLANS
    from illm.config import FRAMEWORKS, Config

    others = [PLANS[framework](Config()) for framework in FRAMEWORKS[1:]]
    return Directory([Scripted(stage), *others], default="transformers")
