"""Which actors live: on demand, evicted, failed, closed, before opening and after."""

from dataclasses import replace

import anyio
import pytest
from acting import CHATS, DONE, EAGER, Gated, Shelf, answer, chat, echo, refuse, running, served, until

from illm.actors import directory as module
from illm.actors.directory import Directory
from illm.actors.ref import State
from illm.core.events import Delta, Failed
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio


def directory_of(*others, named=(), max_loaded=1) -> Directory:
    return Directory([Shelf(named=named, others=others)], default="fake", max_loaded=max_loaded, policy=EAGER)


def ask(directory: Directory, model: str, text: str = "hi"):
    return directory.find(chat(text, model=model)).call(chat(text, model=model))


def models(directory: Directory) -> list[str]:
    return [ref.model for ref in directory]


async def test_named_models_start_at_once_others_when_called():
    async with running(directory_of(served("b", named=False), named=[served("a")])) as directory:
        await until(lambda: directory.status == "ok")
        assert models(directory) == ["a"]
        assert await answer(ask(directory, "b")) == [Delta(0, "hi", 1), DONE]
        assert models(directory) == ["a", "b"]


async def test_where_a_start_takes_moments_the_first_requests_wait_for_it():
    slow, quick = Gated.make(), Gated.make()
    named = [served("slow", slow), replace(served("quick", quick), quick_start=True)]
    async with running(directory_of(named=named)) as directory:
        with pytest.raises(GatewayError, match="still loading"):
            ask(directory, "slow")
        with ask(directory, "quick") as call:
            quick.load.set()
            await until(lambda: call.taken_at is not None)


async def test_settled_is_when_nothing_loads_any_more():
    first, second = Gated.make(), Gated.make()
    named = [served("a", first), served("b", second), served("c", refuse)]
    async with running(directory_of(named=named)) as directory, anyio.create_task_group() as tasks:
        settled = []

        async def wait():
            await directory.settled()
            settled.append(directory.status)

        tasks.start_soon(wait)
        first.load.set()
        await anyio.wait_all_tasks_blocked()
        assert settled == []
        second.load.set()
        await until(lambda: settled)
        assert settled == ["degraded"]  # one could not start, and none loads


async def test_the_least_recently_used_goes_when_one_too_many_is_called():
    others = [served(name, named=False) for name in "abc"]
    async with running(directory_of(*others, max_loaded=2)) as directory:
        for name in "aba":
            await answer(ask(directory, name))
        old = directory.find(chat(model="b"))
        assert await answer(ask(directory, "c"))
        assert models(directory) == ["a", "c"]
        with pytest.raises(GatewayError, match="unloaded; ask again") as refused:
            old.call(chat())
        assert refused.value.kind is Kind.NOT_READY
        assert await answer(ask(directory, "b")) == [Delta(0, "hi", 1), DONE]  # b again, a new actor
        assert models(directory) == ["c", "b"]


async def test_busy_models_stay_and_the_newcomer_is_told_to_wait():
    gated = Gated.make()
    async with running(directory_of(served("a", gated, named=False), served("b", named=False))) as directory:
        with ask(directory, "a"):
            with pytest.raises(GatewayError) as refused:
                ask(directory, "b")
            assert refused.value.kind is Kind.OVERLOADED
        assert await answer(ask(directory, "b"))  # its caller has left: it may go now, though it still loads


async def test_named_models_are_never_evicted_and_do_not_count():
    async with running(
        directory_of(served("b", named=False), served("c", named=False), named=[served("a")])
    ) as directory:
        for name in "abcab":
            await until(lambda: directory.status == "ok")
            assert await answer(ask(directory, name))
        assert models(directory) == ["a", "b"]


async def test_nobody_loads_before_the_evicted_has_gone():
    slow, next_one, last = Gated.make(leave=False), Gated.make(), Gated.make()
    others = [served(name, gated, named=False) for name, gated in zip("abc", (slow, next_one, last), strict=True)]
    async with running(directory_of(*others)) as directory:
        slow.load.set()
        with ask(directory, "a"):
            await until(lambda: slow.began)
        with ask(directory, "b"):  # evicts a, which takes its time
            await anyio.wait_all_tasks_blocked()
            assert not next_one.began
        with ask(directory, "c"):  # evicts b, which never began: a is still there all the same
            await anyio.wait_all_tasks_blocked()
            assert not last.began
            slow.leave.set()
            await until(lambda: last.began)
        assert slow.ended
        assert not next_one.began


async def test_a_model_called_again_while_it_is_unloaded_waits_for_its_own_end():
    gated = Gated.make(leave=False)
    again = served("a", gated, echo, named=False)
    async with running(directory_of(again, served("b", named=False))) as directory:
        gated.load.set()
        with ask(directory, "a"):
            await until(lambda: gated.began)
        with ask(directory, "b"):
            pass  # its caller left, but a is on its way out
        call = ask(directory, "a")
        await anyio.wait_all_tasks_blocked()
        assert again.make_actor.made == 1
        gated.leave.set()
        assert await answer(call) == [Delta(0, "hi", 1), DONE]
        assert models(directory) == ["a"]


async def test_a_load_on_demand_that_fails_answers_everyone_who_waits_with_the_reason():
    gate = anyio.Event()

    async def wait_and_refuse(inbox, ready):
        await gate.wait()
        await refuse(inbox, ready)

    async with running(directory_of(served("a", wait_and_refuse, named=False))) as directory:
        calls = [ask(directory, "a") for _ in range(3)]
        gate.set()
        for call in calls:
            [failed] = await answer(call)
            assert isinstance(failed, Failed)
            assert failed.error.message == "no weights"
        with pytest.raises(GatewayError, match="no weights"):
            ask(directory, "a")
        assert directory.status == "ok"  # what nobody named does not degrade it


async def test_the_first_caller_may_leave_while_it_loads_and_the_next_finds_it_loaded():
    gated = Gated.make()
    async with running(directory_of(served("a", gated, named=False))) as directory:
        with ask(directory, "a"):
            await until(lambda: gated.began)
        gated.load.set()
        await until(lambda: next(iter(directory)).state is State.READY)
        with ask(directory, "a") as call:
            await until(lambda: call.taken_at is not None)
        assert next(iter(directory)).served.make_actor.made == 1


async def test_a_call_before_opening_waits_for_it():
    directory = directory_of(served("b", named=False), named=[served("a")])
    calls = [ask(directory, "a"), ask(directory, "b")]
    assert directory.status == "loading"
    async with running(directory):
        for call in calls:
            assert await answer(call) == [Delta(0, "hi", 1), DONE]


async def test_closing_answers_calls_in_flight_and_waiting_and_stops_every_actor():
    gated, waiting = Gated.make(), Gated.make()
    others = [served("b", waiting, named=False)]
    async with running(directory_of(*others, named=[served("a", gated)])) as directory:
        gated.load.set()
        await until(lambda: directory.status == "ok")
        in_flight, queued = ask(directory, "a"), ask(directory, "b")
        await until(lambda: in_flight.taken_at is not None and waiting.began)
        refs = list(directory)
        directory.close()
        directory.close()
        for call in (in_flight, queued):
            [failed] = await answer(call)
            assert failed.error.kind is Kind.SHUTTING_DOWN
        await until(lambda: gated.ended and waiting.ended)
        assert {ref.state for ref in refs} == {State.STOPPED}
        for ref in refs:
            with pytest.raises(GatewayError, match="shutting down"):
                ref.call(chat())
        with pytest.raises(GatewayError, match="shutting down"):
            directory.find(chat(model="a"))


async def test_closed_before_its_actor_ran_it_does_not_even_begin():
    gated = Gated.make()
    async with running(directory_of(named=[served("a", gated)])) as directory:
        directory.close()
    assert not gated.began


async def test_while_draining_a_reference_found_earlier_starts_nothing():
    async with running(directory_of(served("a", named=False))) as directory:
        ref = directory.find(chat(model="a"))
        directory.drain()
        assert directory.status == "draining"
        with pytest.raises(GatewayError) as refused:
            ref.call(chat())
        assert refused.value.kind is Kind.SHUTTING_DOWN


async def test_names_that_were_only_asked_for_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(module, "STRANGERS", 3)
    others = [served(str(number), named=False) for number in range(10)]
    async with running(directory_of(*others)) as directory:
        found = [directory.find(chat(model=str(number))) for number in range(10)]
        assert len(models(directory)) <= 3
        with pytest.raises(GatewayError) as refused:
            found[0].call(chat())
        assert refused.value.kind is Kind.NOT_READY
        assert found[0].state is State.STOPPED
        assert found[0].served.make_actor.made == 0


async def test_too_many_failed_names_are_refused_until_some_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "STRANGERS", 2)
    others = [served(str(number), refuse, named=False) for number in range(3)]
    async with running(directory_of(*others)) as directory:
        for name in "01":
            await answer(ask(directory, name))
        with pytest.raises(GatewayError, match="failed to load") as refused:
            ask(directory, "2")
        assert refused.value.kind is Kind.OVERLOADED


async def test_a_full_mailbox_is_429():
    gated = Gated.make()
    async with running(directory_of(served("a", gated, named=False, mailbox=2))) as directory:
        calls = [ask(directory, "a") for _ in range(2)]
        with pytest.raises(GatewayError) as refused:
            ask(directory, "a")
        assert (refused.value.kind, refused.value.retry_after) == (Kind.OVERLOADED, 1)
        calls[0].leave()
        ask(directory, "a")


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([], "ok"),
        ([State.READY, State.READY], "ok"),
        ([State.READY, State.STARTING], "loading"),
        ([State.IDLE], "loading"),
        ([State.READY, State.FAILED], "degraded"),
        ([State.RESTARTING], "degraded"),
        ([State.DOWN], "degraded"),
        ([State.FAILED, State.STARTING], "loading"),
    ],
)
async def test_status_in_one_word(states, status):
    directory = directory_of(named=[served(str(number), capabilities=CHATS) for number in range(len(states))])
    for ref, state in zip(directory, states, strict=True):
        ref.state = state
    assert directory.status == status


def test_what_was_found_is_looked_up_again_only_when_models_are_listed_anew():
    listed: list[tuple[str, ...]] = [()]
    far = Anything("far", replace(served("far", framework="far"), lists=lambda: listed[0]))
    near = Anything("near", served("near", framework="near"))
    directory = Directory([near, far], default="near")
    request = chat(model="m")
    assert [directory.find(request).model for _ in range(3)] == ["near"] * 3
    assert near.asked == ["m"]
    listed[0] = ("m",)
    assert [directory.find(request).model for _ in range(3)] == ["far"] * 3
    assert far.asked == ["m"]
    listed[0] = ()
    assert directory.find(request).model == "near"


async def test_what_was_found_is_forgotten_with_its_actor():
    async with running(directory_of(*[served(name, named=False) for name in "ab"])) as directory:
        old = directory.find(chat(model="a"))
        assert await answer(ask(directory, "a"))
        assert await answer(ask(directory, "b"))  # a has to go
        assert directory.find(chat(model="a")) is not old


def test_how_much_is_remembered_of_names_that_requests_bring(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    directory = Directory([Anything("any", served("one", framework="any"))], default="any")
    refs = {directory.find(chat(model=str(number))) for number in range(20)}
    assert len(refs) == 1
    assert len(directory._found) <= 3


class Anything(Shelf):
    """One actor for every name."""

    def __init__(self, framework, one):
        super().__init__(framework, named=[one])
        self.asked = []

    def on_demand(self, model, need):
        self.asked.append(model)
        return self._named[0]
