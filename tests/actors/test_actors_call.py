"""The reply's one slot, and what leaving and finishing a call mean."""

import itertools

import anyio
import pytest
from acting import DONE, answer, chat
from hypothesis import given, strategies

from illm.actors.call import Call, Reply, unraised
from illm.core.events import Delta, Failed, Finish, Reasoning, ToolDelta
from illm.errors import GatewayError, Kind
from illm.loop.wake import Wake

pytestmark = pytest.mark.anyio


class Owner:
    def __init__(self) -> None:
        self.told: list[str] = []

    def withdrawn(self, call: Call) -> None:
        self.told.append("withdrawn")

    def finished(self, call: Call) -> None:
        self.told.append("finished")


DELTAS = strategies.builds(Delta, strategies.integers(0, 2), strategies.text(max_size=3), strategies.just(1))


@given(events=strategies.lists(DELTAS | strategies.builds(Finish, strategies.integers(0, 2), strategies.just("stop"))))
def test_merging_keeps_every_choice_s_text_tokens_and_order(events):
    reply = Reply()
    for event in events:
        reply.put_nowait(event)
    merged = reply._events

    def told(stream, index):
        text, tokens, ends = "", 0, []
        for event in stream:
            if event.index == index and isinstance(event, Delta):
                text, tokens = text + event.text, tokens + event.tokens
            elif event.index == index:
                ends.append((text, event.reason))
        return text, tokens, ends

    assert [told(merged, index) for index in range(3)] == [told(events, index) for index in range(3)]
    pairs = itertools.pairwise(merged)
    assert not any(type(a) is type(b) is Delta and a.index == b.index for a, b in pairs)


def test_reasoning_and_arguments_merge_too_and_calls_stay_apart():
    reply = Reply()
    reply.put_nowait(Reasoning(0, "a"), Reasoning(0, "b"), Reasoning(1, "c"))
    reply.put_nowait(ToolDelta(0, 0, id="x", name="f"), ToolDelta(0, 0, "{"), ToolDelta(0, 0, "}"))
    reply.put_nowait(ToolDelta(0, 1, "{", id="y", name="f"), ToolDelta(0, 0, "?"))
    assert reply.take_nowait() == [
        Reasoning(0, "ab"),
        Reasoning(1, "c"),
        ToolDelta(0, 0, "{}", "x", "f"),
        ToolDelta(0, 1, "{", "y", "f"),
        ToolDelta(0, 0, "?"),
    ]


async def test_a_reader_gets_all_there_is_in_one_batch():
    reply = Reply()
    reply.put_nowait(Delta(0, "a", 1))
    reply.put_nowait(Delta(0, "b", 1), Delta(1, "c", 1))
    assert await reply.take() == [Delta(0, "ab", 2), Delta(1, "c", 1)]
    reply.put_nowait(Delta(0, "d", 1), DONE)
    reply.close()
    assert await reply.take() == [Delta(0, "d", 1), DONE]
    with pytest.raises(anyio.EndOfStream):
        await reply.take()


async def test_a_slow_reader_stops_the_producer_also_where_its_deltas_merge():
    reply, put = Reply(bound=3), []

    async def produce():
        for number in range(7):
            await reply.put(Delta(0, str(number), 1))
            put.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await anyio.wait_all_tasks_blocked()
        assert put == [0, 1, 2]
        assert await reply.take() == [Delta(0, "012", 3)]
        await anyio.wait_all_tasks_blocked()
        assert put == [0, 1, 2, 3, 4, 5]
        assert await reply.take() == [Delta(0, "345", 3)]
    assert put[-1] == 6


@pytest.mark.parametrize(
    ("end", "raised"), [(Reply.leave, anyio.BrokenResourceError), (Reply.close, anyio.ClosedResourceError)]
)
async def test_a_waiting_producer_wakes_when_the_reply_ends(end, raised):
    reply = Reply(bound=1)
    reply.put_nowait(DONE)
    async with anyio.create_task_group() as tasks:

        async def produce():
            with pytest.raises(raised):
                await reply.put(DONE)

        tasks.start_soon(produce)
        await anyio.wait_all_tasks_blocked()
        end(reply)


@pytest.mark.parametrize("act", [Reply.take_nowait, Reply.leave, Reply.close])
def test_a_producer_without_a_task_is_told_once_that_there_is_room(act):
    reply, told = Reply(bound=2), []
    reply.put_nowait(Delta(0, "a", 1))
    assert not reply.full
    reply.put_nowait(Delta(0, "b", 1))
    assert reply.full
    reply.on_room = lambda: told.append(reply.full)
    act(reply)
    act(reply) if act is not Reply.take_nowait else reply.leave()
    assert told == [False]


def test_the_last_events_and_the_end_wake_the_reader_once():
    reply, woken = Reply(), []

    class Counted(Wake):
        def set(self):
            woken.append(1)

    reply.wake(Counted())
    reply.close(Delta(0, "a", 1), DONE)
    reply.close(DONE)
    assert (woken, reply.take_nowait()) == ([1], [Delta(0, "a", 1), DONE])


async def test_a_waiting_reader_wakes_when_it_is_made_to_leave():
    reply = Reply()
    async with anyio.create_task_group() as tasks:

        async def read():
            with pytest.raises(anyio.BrokenResourceError):
                await reply.take()

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        reply.leave()


def test_leaving_while_queued_withdraws_once():
    owner = Owner()
    with Call(chat(), owner) as call:
        call.leave()
    assert owner.told == ["withdrawn"]
    assert call.left


def test_leaving_a_taken_call_tells_the_actor_once_and_finishing_it_then_is_no_error():
    owner, told = Owner(), []
    with Call(chat(), owner) as call:
        call.taken_at = 1.0
        call.on_leave = lambda: told.append("on_leave")
    call.leave()
    call.finish(DONE)
    call.finish()
    assert told == ["on_leave"]
    assert owner.told == ["finished"]


async def test_leaving_an_answered_call_tells_nobody():
    owner, told = Owner(), []
    with Call(chat(), owner) as call:
        call.taken_at = 1.0
        call.on_leave = lambda: told.append("on_leave")
        call.fail(GatewayError(Kind.INTERNAL, "no"))
        [failed] = await answer(call)
        assert isinstance(failed, Failed)
    assert told == []


def test_an_unraised_error_says_the_same_without_the_history():
    try:
        raise GatewayError(Kind.OVERLOADED, "full", param="n", retry_after=7)
    except GatewayError as raised:
        error = unraised(raised)
    assert (error.kind, error.message, error.param, error.retry_after) == (Kind.OVERLOADED, "full", "n", 7)
    assert error.__traceback__ is None
    assert error.__context__ is None
