"""The simple actor: side by side, up to a bound, and one's trouble is not the other's."""

import anyio
import anyio.lowlevel
import pytest
from acting import DONE, EAGER, answer, chat, until

from illm.actors.actor import BackendBrokenError, TaskActor
from illm.actors.ref import Ref, Served, State
from illm.actors.supervisor import supervise
from illm.core.events import Delta, Failed
from illm.errors import GatewayError, Kind

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_mailboxes")]


class Tasks(TaskActor):
    """Does what the request's text says."""

    concurrency = 2

    def __init__(self) -> None:
        self.running: list[str] = []
        self.stopped = False
        self.go = anyio.Event()

    async def stop(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.stopped = True

    async def handle(self, request, respond) -> None:
        what = request.messages[0].text
        self.running.append(what)
        try:
            match what:
                case "wait":
                    await self.go.wait()
                case "flood":
                    for _ in range(1000):
                        await respond(Delta(0, "x", 1))
                case "refuse":
                    raise GatewayError(Kind.CONTEXT_LENGTH, "too long")
                case "refuse in a group":
                    async with anyio.create_task_group():
                        raise GatewayError(Kind.CONTEXT_LENGTH, "too long")
                case "fail":
                    raise ValueError("secret detail")
                case "broken socket":
                    raise anyio.BrokenResourceError
                case "break":
                    raise BackendBrokenError
                case "break in a group":
                    async with anyio.create_task_group():
                        raise BackendBrokenError
            await respond(Delta(0, what, 1), DONE)
        finally:
            self.running.remove(what)


def ref_to(*actors: TaskActor) -> Ref:
    made = iter(actors)
    return Ref(
        Served(framework="f", model="m", capabilities=frozenset(), make_actor=lambda: next(made)), lambda _: None
    )


def ask(ref: Ref, text: str):
    return ref.inbox.admit(chat(text))


async def test_two_at_once_and_the_third_waits():
    actor = Tasks()
    ref = ref_to(actor)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref)
        calls = [ask(ref, "wait") for _ in range(3)]
        await until(lambda: len(actor.running) == 2)
        await anyio.wait_all_tasks_blocked()
        assert (ref.inbox.waiting, len(ref.inbox.active)) == (1, 2)
        actor.go.set()
        assert [await answer(call) for call in calls] == [[Delta(0, "wait", 1), DONE]] * 3
        await anyio.wait_all_tasks_blocked()
        assert not ref.busy
        tasks.cancel_scope.cancel()
    assert actor.stopped


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("refuse", Kind.CONTEXT_LENGTH),
        ("refuse in a group", Kind.CONTEXT_LENGTH),
        ("fail", Kind.INTERNAL),
        ("broken socket", Kind.INTERNAL),
    ],
)
async def test_one_request_s_failure_is_its_own(text, kind):
    actor = Tasks()
    ref = ref_to(actor)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref)
        neighbour, call = ask(ref, "wait"), ask(ref, text)
        [failed] = await answer(call)
        assert isinstance(failed, Failed)
        assert failed.error.kind is kind
        assert "secret" not in failed.error.message
        actor.go.set()
        assert (await answer(neighbour))[-1] == DONE
        assert ref.state is State.READY
        tasks.cancel_scope.cancel()


async def test_leaving_stops_the_work_and_frees_its_place():
    actor = Tasks()
    ref = ref_to(actor)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref)
        with ask(ref, "wait"), ask(ref, "flood"):
            await until(lambda: sorted(actor.running) == ["flood", "wait"])
        await until(lambda: not actor.running)
        assert await answer(ask(ref, "hello")) == [Delta(0, "hello", 1), DONE]
        assert ref.restarts == 0
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("text", ["break", "break in a group"])
async def test_a_broken_backend_is_replaced_and_takes_no_retry_with_it(text):
    first, second = Tasks(), Tasks()
    ref = ref_to(first, second)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        assert await answer(ask(ref, text)) == []
        assert await answer(ask(ref, "again")) == [Delta(0, "again", 1), DONE]  # at once
        assert ref.restarts == 1
        assert first.stopped
        tasks.cancel_scope.cancel()


async def test_a_start_that_fails_is_cleaned_up():
    class Unable(Tasks):
        async def start(self) -> None:
            raise GatewayError(Kind.UNREACHABLE, "nobody there")

    actor = Unable()
    ref = ref_to(actor)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref)
        await until(lambda: ref.state is State.FAILED)
        assert actor.stopped
        tasks.cancel_scope.cancel()


async def test_hung_up_from_outside_a_handler_ends_quietly():
    """The gateway shuts down: the reply is closed before the handler is cancelled."""
    actor = Tasks()
    ref = ref_to(actor)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref)
        call = ask(ref, "wait")
        await until(lambda: actor.running)
        ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "bye"))
        actor.go.set()
        [failed] = await answer(call)
        assert failed.error.kind is Kind.SHUTTING_DOWN
        await until(lambda: not actor.running)
        assert ref.restarts == 0
        tasks.cancel_scope.cancel()
