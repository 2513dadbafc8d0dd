"""Several choices as several calls: admitted together, read as one, ended together."""

import anyio
import pytest

from illm.actors import fan_out
from illm.actors.actor import Actor
from illm.actors.call import Call
from illm.actors.fan_out import FanOut
from illm.actors.ref import Ref, Served, State
from illm.core.capabilities import Capability
from illm.core.events import Delta, Done, Event, Failed, Finish, Raw, Reasoning, ToolDelta, Usage
from illm.core.requests import Chat, Completion, Message, Sampling, Text
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio


def no_actor() -> Actor:
    raise NotImplementedError


def make_ref(*, mailbox: int = 64, fans_out: bool = True) -> Ref:
    served = Served(
        framework="ollama",
        model="m",
        capabilities=frozenset(Capability),
        make_actor=no_actor,
        mailbox=mailbox,
        fans_out=fans_out,
    )
    ref = Ref(served, lambda ref: None)
    ref.state = State.READY
    return ref


def chat(n: int = 3, seed: int | None = None) -> Chat:
    return Chat(messages=(Message("user", (Text("hi"),)),), sampling=Sampling(n=n, seed=seed))


def completion(*prompts: str, n: int = 1, seed: int | None = None) -> Completion:
    return Completion(prompts=prompts, sampling=Sampling(n=n, seed=seed))


def taken(ref: Ref) -> list[Call]:
    calls = []
    while (call := ref.inbox.take_nowait()) is not None:
        calls.append(call)
    return calls


@pytest.fixture
def ref():
    ref = make_ref()
    yield ref
    ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "over"))


async def read_all(call: Call | FanOut) -> list[Event]:
    events: list[Event] = []
    while not (events and isinstance(events[-1], Done | Failed)):
        events += await call.reply.take()
    return events


async def test_one_choice_is_a_plain_call(ref):
    with fan_out.enter(ref, chat(1)) as call:
        assert isinstance(call, Call)


async def test_a_backend_that_makes_all_choices_gets_one_call():
    ref = make_ref(fans_out=False)
    with fan_out.enter(ref, chat(3)) as call:
        assert isinstance(call, Call)
        assert call.request.sampling.n == 3
    ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "over"))


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [(None, [None, None]), (7, [7, 8]), (-1, [-1, 0]), (2**63 - 1, [2**63 - 1, -(2**63)])],
)
def test_seeds_count_up_within_64_bits(seed, seeds):
    assert [part.sampling.seed for part in fan_out.split(chat(2, seed))] == seeds


def test_prompts_and_choices_are_numbered_as_openai_numbers_them():
    parts = fan_out.split(completion("a", "b", n=2, seed=5))
    assert [(part.prompts, part.sampling.n, part.sampling.seed) for part in parts] == [
        (("a",), 1, 5),
        (("a",), 1, 6),
        (("b",), 1, 5),
        (("b",), 1, 6),
    ]


async def test_every_kind_of_event_carries_its_choice(ref):
    with fan_out.enter(ref, chat(2)) as call:
        first, second = taken(ref)
        for part, text in ((first, "a"), (second, "b")):
            part.finish(
                Reasoning(0, text),
                ToolDelta(0, 0, "{}", "id", "f"),
                Delta(0, text, 1),
                Finish(0, "stop"),
                Done(Usage(5, 2)),
            )
        events = await read_all(call)
    assert events == [
        *(Reasoning(0, "a"), ToolDelta(0, 0, "{}", "id", "f"), Delta(0, "a", 1), Finish(0, "stop")),
        *(Reasoning(1, "b"), ToolDelta(1, 0, "{}", "id", "f"), Delta(1, "b", 1), Finish(1, "stop")),
        Done(Usage(5, 4)),
    ]


async def test_choices_are_introduced_in_order_whichever_speaks_first(ref):
    with fan_out.enter(ref, chat(3)) as call, anyio.fail_after(5):
        first, second, third = taken(ref)
        third.reply.put_nowait(Delta(0, "c"))
        second.reply.put_nowait(Delta(0, "b"))
        async with anyio.create_task_group() as tasks:
            batches: list[list[Event]] = []

            async def read() -> None:
                batches.append(await call.reply.take())

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert batches == []
            first.reply.put_nowait(Delta(0, "a"))
        assert batches == [[Delta(0, "a"), Delta(1, "b"), Delta(2, "c")]]
        third.reply.put_nowait(Delta(0, "d"))
        assert await call.reply.take() == [Delta(2, "d")]


async def test_what_is_not_yet_wanted_stays_with_its_producer(ref):
    with fan_out.enter(ref, chat(2)) as call, anyio.fail_after(5):
        first, second = taken(ref)
        texts: list[str] = []
        unblocked = anyio.Event()

        async def read() -> None:
            while len("".join(texts)) < 67:
                texts.extend(event.text for event in await call.reply.take())

        async def one_more() -> None:
            await second.reply.put(Reasoning(0, "z"))
            unblocked.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            second.reply.put_nowait(Reasoning(0, "x"))
            await anyio.wait_all_tasks_blocked()  # this batch is in the reader's hands now; no further one is
            for _ in range(64):
                second.reply.put_nowait(Reasoning(0, "y"))
            tasks.start_soon(one_more)
            await anyio.wait_all_tasks_blocked()
            assert not unblocked.is_set()
            first.reply.put_nowait(Delta(0, "a"))
            await unblocked.wait()
        assert "".join(texts) == "ax" + "y" * 64 + "z"


async def test_usage_counts_a_prompt_once_and_every_completion(ref):
    with fan_out.enter(ref, completion("a", "b", n=2)) as call:
        # The second part of a prompt found it cached, and the server left it out of the count.
        counts = [Usage(10, 1), Usage(0, 2), Usage(20, 4, 5, 3), Usage(20, 8, 20, 4)]
        for part, usage in zip(taken(ref), counts, strict=True):
            part.finish(Finish(0, "stop"), Done(usage))
        events = await read_all(call)
    assert [event.index for event in events[:-1]] == [0, 1, 2, 3]
    assert events[-1] == Done(Usage(30, 15, 5, 7))


async def test_a_part_that_is_done_early_waits_for_the_others(ref):
    with fan_out.enter(ref, chat(2)) as call:
        first, second = taken(ref)
        first.finish(Finish(0, "stop"), Done(Usage(1, 1)))
        assert await call.reply.take() == [Finish(0, "stop")]
        second.finish(Finish(0, "length"), Done(Usage(1, 1)))
        assert await call.reply.take() == [Finish(1, "length"), Done(Usage(1, 2))]
        with pytest.raises(anyio.EndOfStream):
            await call.reply.take()


async def test_one_failure_fails_all_and_leaves_the_others(ref):
    error = GatewayError(Kind.UPSTREAM, "broken")
    left = []
    with fan_out.enter(ref, chat(3)) as call:
        first, second, third = taken(ref)
        first.on_leave, third.on_leave = (lambda: left.append(0)), (lambda: left.append(2))
        first.reply.put_nowait(Delta(0, "a"))
        second.fail(error)
        events = await call.reply.take()
        assert events == [Failed(error)]
        assert left == [0, 2]
        assert not call.left, "the client is still there, to be told"


async def test_a_part_that_dies_is_the_end_of_all(ref):
    left = []
    with fan_out.enter(ref, chat(2)) as call:
        first, second = taken(ref)
        second.on_leave = lambda: left.append(1)
        first.finish()
        with pytest.raises(anyio.EndOfStream):
            await call.reply.take()
        assert left == [1]


async def test_relayed_bytes_cannot_be_merged(ref):
    with fan_out.enter(ref, chat(2)) as call:
        taken(ref)[0].reply.put_nowait(Raw(b"x"))
        (event,) = await call.reply.take()
        assert isinstance(event, Failed)
        assert event.error.kind is Kind.INTERNAL


async def test_all_parts_are_admitted_or_none():
    ref = make_ref(mailbox=3)
    with pytest.raises(GatewayError) as caught:
        fan_out.enter(ref, chat(4))
    assert caught.value.kind is Kind.OVERLOADED
    assert ref.inbox.waiting == 0
    with fan_out.enter(ref, chat(3)):
        assert ref.inbox.waiting == 3
    assert ref.inbox.waiting == 0
    ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "over"))


async def test_leaving_leaves_every_part_and_wakes_the_reader(ref):
    left = []
    with fan_out.enter(ref, chat(2)) as call, anyio.fail_after(5):
        for part in taken(ref):
            part.on_leave = lambda part=part: left.append(part)
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                with pytest.raises(anyio.BrokenResourceError):
                    await call.reply.take()

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            call.leave()
        assert len(left) == 2
        assert call.left


async def test_times_are_those_of_the_first_part_to_begin(ref):
    with fan_out.enter(ref, chat(2)) as call:
        assert call.taken_at is None
        first = ref.inbox.take_nowait()
        assert call.taken_at == first.taken_at
        assert call.queued_at <= call.taken_at
