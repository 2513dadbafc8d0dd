"""Restarts: what a crash does to those who wait and those whose work ran, on both loops."""

import gc
import weakref
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from acting import DONE, EAGER, a_ref, answer, chat, crash, echo, refuse, until

from illm.actors.inbox import Inbox
from illm.actors.ref import State
from illm.actors.supervisor import Policy, supervise
from illm.core.events import Delta, Failed
from illm.errors import GatewayError, Kind

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_mailboxes")]


async def take_and_crash(inbox: Inbox, ready: Callable[[], None]) -> None:
    ready()
    await inbox.take()
    raise RuntimeError("boom")


async def test_a_crash_hangs_up_on_the_taken_and_keeps_the_waiting_for_the_next_actor():
    ref = a_ref(take_and_crash, echo)
    taken, waiting = ref.inbox.admit(chat("a")), ref.inbox.admit(chat("b"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        assert await answer(taken) == []  # neither `Done` nor `Failed`: the backend died
        assert await answer(waiting) == [Delta(0, "b", 1), DONE]
        assert (ref.state, ref.restarts) == (State.READY, 1)
        tasks.cancel_scope.cancel()
    assert ref.state is State.STOPPED


async def test_too_many_crashes_and_it_is_failed_and_refuses_everyone():
    ref = a_ref(crash)
    waiting = ref.inbox.admit(chat())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        [failed] = await answer(waiting)
        assert isinstance(failed, Failed)
        assert failed.error.kind is Kind.BACKEND_DIED
        assert (ref.state, ref.restarts) == (State.FAILED, 3)
        with pytest.raises(GatewayError, match="crashed"):
            ref.call(chat())
        tasks.cancel_scope.cancel()


async def test_what_cannot_start_is_failed_at_once_with_the_reason():
    ref = a_ref(refuse)
    waiting = ref.inbox.admit(chat())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        [failed] = await answer(waiting)
        assert failed.error.message == "no weights"
        assert (ref.state, ref.restarts) == (State.FAILED, 0)
        first, second = ref._refusal(), ref._refusal()
        assert first.kind is second.kind is Kind.MODEL_LOAD_FAILED
        assert first is not second  # each request raises its own
        tasks.cancel_scope.cancel()


async def test_failed_half_opens_after_the_period():
    ref = a_ref(refuse, echo)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, Policy(period=0))
        await until(lambda: ref.state is State.READY)
        assert ref.problem is None
        assert await answer(ref.call(chat("x"))) == [Delta(0, "x", 1), DONE]
        tasks.cancel_scope.cancel()


async def test_what_nobody_named_is_given_up_a_period_after_it_failed():
    ref = a_ref(refuse, echo, named=False)
    with anyio.fail_after(5):
        await supervise(ref, Policy(period=0))
    assert ref.state is State.STOPPED


async def test_a_clean_end_is_the_end():
    async def leave(inbox: Inbox, ready: Callable[[], None]) -> None:
        ready()

    ref = a_ref(leave)
    with anyio.fail_after(5):
        await supervise(ref, EAGER)
    assert (ref.state, ref.restarts) == (State.STOPPED, 0)


async def test_a_call_while_it_restarts_is_told_to_come_back():
    ref = a_ref(crash)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, Policy(backoff=1000, ceiling=1000))
        await until(lambda: ref.state is State.RESTARTING)
        with pytest.raises(GatewayError, match="restarted") as refused:
            ref.call(chat())
        assert refused.value.kind is Kind.NOT_READY
        tasks.cancel_scope.cancel()


async def test_cancelled_while_its_actor_crashes_it_stops():
    async def crash_at_the_end(inbox: Inbox, ready: Callable[[], None]) -> None:
        ready()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()
        finally:
            raise RuntimeError("while it was cancelled")

    ref = a_ref(crash_at_the_end)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        await until(lambda: ref.state is State.READY)
        tasks.cancel_scope.cancel()
    assert ref.state is State.STOPPED
    assert ref.served.make_actor.made == 1


async def test_a_half_cancelled_group_of_crashes_counts_as_one():
    async def crash_in_groups(inbox: Inbox, ready: Callable[[], None]) -> None:
        async def fail_when_cancelled() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("second")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(anyio.sleep_forever)
            await anyio.lowlevel.checkpoint()
            raise KeyError("first")

    ref = a_ref(crash_in_groups, echo)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        await until(lambda: ref.state is State.READY)
        assert ref.restarts == 1
        tasks.cancel_scope.cancel()


async def test_a_failure_kept_for_later_keeps_nothing_of_what_failed():
    class Weights:
        pass

    seen: list[weakref.ref] = []

    async def load_half(inbox: Inbox, ready: Callable[[], None]) -> None:
        weights = Weights()
        seen.append(weakref.ref(weights))
        raise GatewayError(Kind.MODEL_LOAD_FAILED, "half")

    ref = a_ref(load_half)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        await until(lambda: ref.state is State.FAILED)
        gc.collect()
        assert seen[0]() is None
        tasks.cancel_scope.cancel()
