"""A dialect with nothing to it, and a running actor that speaks it: for tests of what moves the bytes."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel

from illm.actors.ref import Ref, Served, State
from illm.actors.supervisor import supervise
from illm.backends.remote.actor import Board, RemoteActor, Upstream
from illm.backends.remote.address import parse_address
from illm.backends.remote.deadlines import Timeouts
from illm.backends.remote.upstream import Outgoing
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Event, Failed, Finish, Usage
from illm.core.requests import Completion, Request, Sampling
from illm.errors import GatewayError, Kind

KINDS = {400: Kind.INVALID_REQUEST, 404: Kind.MODEL_NOT_FOUND, 429: Kind.OVERLOADED, 500: Kind.UPSTREAM}


class EchoDecoder:
    """Text is a delta, whatever it says; `!` in it is nonsense; other statuses than 200 are failures."""

    def __init__(self) -> None:
        self.status = 0

    def start(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status = status

    def feed(self, data: bytes) -> Sequence[Event]:
        if b"!" in data:
            return [Failed(GatewayError(Kind.UPSTREAM, "nonsense"))]
        if b"?" in data:
            raise ZeroDivisionError("a fault of ours")
        return [Delta(0, data.decode())] if self.status == 200 else []

    def close(self) -> Sequence[Event]:
        if self.status != 200:
            return [Failed(GatewayError(KINDS[self.status], f"status {self.status}"))]
        return [Finish(0, "stop"), Done(Usage())]


@dataclass(frozen=True)
class EchoDialect:
    """POSTs the prompt, takes the answer for text."""

    framework: str = "echo"
    capabilities: frozenset[Capability] = frozenset({Capability.COMPLETIONS, Capability.CHAT})
    supported: frozenset[str] = frozenset()
    fans_out: bool = False
    probe_path: str = "/health"
    models_path: str = "/v1/models"
    validates_models: bool = False

    def outgoing(self, request: Request) -> Outgoing:
        assert isinstance(request, Completion)
        if request.prompts == ("refuse",):
            raise GatewayError(Kind.UNSUPPORTED_PARAMETER, "not that", param="prompt")
        return Outgoing(
            "POST", "/v1/echo", ((b"x-model", (request.model or "none").encode()),), str(request.prompts[0]).encode()
        )

    def decoder(self, request: Request) -> EchoDecoder:
        return EchoDecoder()

    def models(self, body: bytes) -> Sequence[str]:
        return body.decode().split()


def ask(prompt: str = "hello", model: str | None = None) -> Completion:
    """Return a request."""
    return Completion(prompts=(prompt,), sampling=Sampling(), model=model)


def upstream(*urls: str, **more: object) -> Upstream:
    """Return what the operator would have said."""
    said = Upstream(name="echo", dialect=EchoDialect(), addresses=[parse_address(url) for url in urls])
    return replace(said, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def running(*urls: str, mailbox: int = 1024, **more: object) -> AsyncIterator[Ref]:
    """Run an actor over these servers while the block lasts; it is ready, or down."""
    said = upstream(*urls, **more)
    board = Board(said)
    ref = Ref(
        Served(
            framework="echo",
            model="echo",
            capabilities=said.dialect.capabilities,
            make_actor=lambda: RemoteActor(said, board),
            mailbox=mailbox,
            details=board.describe,
            lists=lambda: board.models,
        ),
        lambda ref: None,
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise, ref)
            while ref.state in (State.IDLE, State.STARTING):
                await anyio.lowlevel.checkpoint()
            yield ref
            tasks.cancel_scope.cancel()
    finally:
        ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "over"))


async def answer(ref: Ref, prompt: str = "hello", model: str | None = None) -> list[Event]:
    """Ask and return every event, neighbouring text joined."""
    events: list[Event] = []
    with ref.call(ask(prompt, model)) as call:
        while not events or not isinstance(events[-1], Done | Failed):
            events += await call.reply.take()
    return events


async def text(ref: Ref, prompt: str = "hello", model: str | None = None) -> str:
    """Ask and return the text of a proper answer."""
    events = await answer(ref, prompt, model)
    assert isinstance(events[-1], Done), events
    return "".join(event.text for event in events if isinstance(event, Delta))


async def failure(ref: Ref, prompt: str = "hello") -> GatewayError:
    """Ask and return what it failed with."""
    events = await answer(ref, prompt)
    assert isinstance(events[-1], Failed), events
    return events[-1].error


FAST = Timeouts(connect=0.2, first_byte=0.2, idle=0.2, total=0.2, rest=4.0)
