"""The local actor under its supervisor: every way a call can end, and every way an engine can."""

import gc
import threading
import weakref
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest

from illm.actors.inbox import Inbox
from illm.actors.ref import Ref, State
from illm.actors.supervisor import Policy, supervise
from illm.backends.local.actor import LocalActor, Slot
from illm.core.events import Delta, Failed
from illm.errors import GatewayError, Kind

from .fakes import DONE, PATIENCE, Letters, Model, chat

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_mailboxes")]

EAGER = Policy(intensity=2, period=1000, backoff=0)


async def until(condition) -> None:
    """Let the others run, threads too, until it holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def answer(call) -> list:
    events = []
    with anyio.fail_after(PATIENCE):
        try:
            while True:
                events += await call.reply.take()
        except anyio.EndOfStream:
            return events


def text(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture(autouse=True)
def nothing_raises_in_the_loop(caplog):
    """What a posted callback raises is only logged, so that no test would see it."""
    yield
    assert "a posted callback failed" not in [record.getMessage() for record in caplog.get_records("call")]


def no_threads() -> bool:
    return not any(thread.name.startswith("illm-") for thread in threading.enumerate())


@asynccontextmanager
async def supervised(model: Model, policy: Policy = EAGER, **more):
    ref = model.ref(**more)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, policy)
        try:
            yield ref
        finally:
            for work in model.works:
                if isinstance(work, Letters):
                    work.preparing.open()
                    work.stepping.open()
            model.loading.open()
            tasks.cancel_scope.cancel()
    assert ref.state is State.STOPPED
    assert not ref.busy


async def ready(ref: Ref) -> Ref:
    await until(lambda: ref.state is State.READY)
    return ref


async def test_calls_are_answered_side_by_side():
    async with supervised(Model()) as ref:
        calls = [(await ready(ref)).call(chat(word)) for word in ("one", "three", "x")]
        answers = [await answer(call) for call in calls]
        assert [text(events) for events in answers] == ["one", "three", "x"]
        assert all(events[-1] == DONE for events in answers)
        assert not ref.busy


async def test_a_slow_reader_finds_one_merged_delta():
    work = Letters()
    async with supervised(Model(work)) as ref:
        call = (await ready(ref)).call(chat("a" * 500))
        await until(lambda: call.reply.closed)
        [delta, done] = await call.reply.take()
        assert (delta, done) == (Delta(0, "a" * 500, 500), DONE)


async def test_no_more_than_its_capacity_is_with_the_engine_and_the_rest_waits_in_order():
    work = Letters()
    work.stepping.shut()
    async with supervised(Model(work, capacity=2), mailbox=3) as ref:
        await ready(ref)
        calls = [ref.call(chat(letter)) for letter in "ab"]
        await until(lambda: ref.inbox.waiting == 0)
        calls += [ref.call(chat(letter)) for letter in "cde"]
        with pytest.raises(GatewayError) as refused:
            ref.call(chat("f"))
        assert refused.value.kind is Kind.OVERLOADED
        await until(work.stepping.reached.is_set)
        assert (ref.inbox.waiting, len(ref.inbox.active)) == (3, 2)
        work.stepping.open()
        assert "".join([text(await answer(call)) for call in calls]) == "abcde"
        assert work.prepared == list("abcde")


async def test_leaving_while_queued_reaches_no_thread():
    work = Letters()
    work.stepping.shut()
    async with supervised(Model(work, capacity=1)) as ref:
        first = (await ready(ref)).call(chat("a"))
        await until(lambda: first.taken_at is not None)
        with ref.call(chat("b")):
            await anyio.lowlevel.checkpoint()
        third = ref.call(chat("c"))
        work.stepping.open()
        assert text(await answer(third)) == "c"
        assert work.prepared == ["a", "c"]


async def test_leaving_while_it_is_prepared_frees_its_place():
    work = Letters()
    work.preparing.shut()
    async with supervised(Model(work, capacity=1)) as ref:
        with (await ready(ref)).call(chat("a")):
            await until(work.preparing.reached.is_set)
        assert not ref.busy
        call = ref.call(chat("b"))
        await until(lambda: call.taken_at is not None)
        work.preparing.open()
        assert text(await answer(call)) == "b"
        assert 0 not in work.running


async def test_leaving_while_it_decodes_stops_the_work():
    work = Letters()
    async with supervised(Model(work)) as ref:
        with (await ready(ref)).call(chat("a" * 10**6)) as call:
            await call.reply.take()
        await until(lambda: work.aborted)
        assert work.running == {}
        assert text(await answer(ref.call(chat("b")))) == "b"
        assert ref.restarts == 0


@pytest.mark.parametrize("prompt", ["too long", "unpreparable", "no room", "unaddable"])
async def test_one_request_s_failure_is_its_own(prompt):
    async with supervised(Model()) as ref:
        [failed] = await answer((await ready(ref)).call(chat(prompt)))
        assert isinstance(failed, Failed)
        assert text(await answer(ref.call(chat("b")))) == "b"
        assert (ref.restarts, ref.busy) == (0, False)


async def test_a_failure_posted_for_a_call_that_has_just_left_hurts_nobody():
    work = Letters()
    work.preparing.shut()
    async with supervised(Model(work)) as ref:
        with (await ready(ref)).call(chat("too long")):
            await until(work.preparing.reached.is_set)
            work.preparing.open()
            call = ref.call(chat("b"))
        assert text(await answer(call)) == "b"


async def test_a_crash_fails_what_ran_and_a_new_engine_answers_what_waited():
    crashing, sound = Letters(crash=RuntimeError("boom")), Letters()
    crashing.stepping.shut()
    async with supervised(Model(crashing, sound, capacity=2)) as ref:
        await ready(ref)
        calls = [ref.call(chat(letter)) for letter in "abc"]
        await until(lambda: len(ref.inbox.active) == 2)
        crashing.stepping.open()
        for call in calls[:2]:
            [failed] = await answer(call)
            assert isinstance(failed, Failed)
            assert failed.error.kind is Kind.BACKEND_DIED
            assert (ref.state, ref.restarts) != (State.READY, 0)  # a retry would find the one that died
        assert text(await answer(calls[2])) == "c"
        assert (ref.state, ref.restarts) == (State.READY, 1)


async def test_a_new_engine_waits_for_a_prompt_that_the_last_one_still_prepares():
    crashing, sound = Letters(crash=RuntimeError("boom")), Letters()
    crashing.stepping.shut()
    model = Model(crashing, sound)
    async with supervised(model) as ref:
        first = (await ready(ref)).call(chat("a"))
        await until(crashing.stepping.reached.is_set)
        crashing.preparing.shut()
        second = ref.call(chat("b"))
        await until(crashing.preparing.reached.is_set)
        crashing.stepping.open()
        assert isinstance((await answer(first))[-1], Failed)  # at once
        assert isinstance((await answer(second))[-1], Failed)
        await anyio.wait_all_tasks_blocked()
        assert (ref.state, model.loads) == (State.RESTARTING, 1)
        crashing.preparing.open()
        await ready(ref)
        assert model.loads == 2


async def test_crashes_in_a_row_end_in_failed():
    model = Model(*(Letters(crash=RuntimeError("boom")) for _ in range(3)))
    async with supervised(model) as ref:
        for crashes in range(1, 4):
            await answer((await ready(ref)).call(chat("a")))
            await until(lambda crashes=crashes: ref.restarts == crashes)
        assert ref.state is State.FAILED
        with pytest.raises(GatewayError, match="crashed"):
            ref.call(chat("a"))
        assert model.loads == 3


async def test_a_load_that_fails_is_failed_with_the_reason_for_whoever_waits():
    model = Model(GatewayError(Kind.MODEL_LOAD_FAILED, "no weights"))
    model.loading.shut()
    async with supervised(model, named=False) as ref:
        call = ref.call(chat("a"))
        model.loading.open()
        [failed] = await answer(call)
        assert failed.error.message == "no weights"
        assert (ref.state, ref.restarts) == (State.FAILED, 0)


async def test_a_load_that_crashes_is_tried_again():
    async with supervised(Model(OSError("disk"), Letters())) as ref:
        await ready(ref)
        assert ref.restarts == 1


async def test_health_shows_progress_then_counters_then_neither():
    model = Model()
    model.loading.shut()
    async with supervised(model) as ref:
        await until(model.loading.reached.is_set)
        model.slot.progress = "loading: 40%"
        assert ref.served.details() == {"progress": "loading: 40%"}
        model.loading.open()
        await ready(ref)
        assert ref.served.details() == {"steps": 0}
    assert ref.served.details() == {}


async def test_a_wedged_step_fails_its_calls_and_is_not_loaded_again_while_its_thread_lives():
    wedged, sound = Letters(), Letters()
    wedged.stepping.shut()
    model = Model(wedged, sound, step_limit=0.05)
    async with supervised(model, Policy(period=0)) as ref:
        [failed] = await answer((await ready(ref)).call(chat("a")))
        assert failed.error.kind is Kind.BACKEND_DIED
        await until(lambda: ref.problem is not None and "cannot be ended" in ref.problem.message)
        assert model.loads == 1
        wedged.stepping.open()  # it comes back after all: what it made finds nobody, and a new one may load
        await ready(ref)
        assert text(await answer(ref.call(chat("b")))) == "b"
        assert model.loads == 2


async def test_a_wedged_prompt_is_seen_too():
    work = Letters()
    work.preparing.shut()
    async with supervised(Model(work, step_limit=0.05)) as ref:
        [failed] = await answer((await ready(ref)).call(chat("a")))
        assert failed.error.kind is Kind.BACKEND_DIED
        await until(lambda: ref.state is State.FAILED)
        assert "hangs" in ref.problem.message


async def test_a_step_that_ends_after_its_actor_reaches_nobody():
    """On trio an exception in a posted callback would end the run."""
    work = Letters()
    work.stepping.shut()
    model = Model(work)
    ref = model.ref()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        call = (await ready(ref)).call(chat("ab"))
        await until(work.stepping.reached.is_set)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            [failed] = await answer(call)  # at once, though the step still runs
            assert failed.error.kind is Kind.BACKEND_DIED
            work.stepping.open()
    assert ref.state is State.STOPPED
    await until(no_threads)


async def test_stopped_while_it_loads_it_keeps_nothing():
    seen = []

    class Loading(Model):
        def load(self) -> Letters:
            self.loading.pass_()
            work = Letters()
            seen.append(weakref.ref(work))
            return work

    model = Loading()
    model.loading.shut()
    ref = model.ref()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, ref, EAGER)
        await until(model.loading.reached.is_set)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await until(lambda: model.slot.thread._stopping)  # its actor has ended, it loads on
        model.loading.open()
    assert (ref.state, model.slot.thread, model.slot.work) == (State.STOPPED, None, None)
    await until(no_threads)
    gc.collect()
    assert seen[0]() is None


async def test_closed_from_outside_in_the_middle_of_an_answer():
    work = Letters()
    async with supervised(Model(work)) as ref:
        call = (await ready(ref)).call(chat("a" * 10**6))
        await call.reply.take()
        ref.inbox.close(GatewayError(Kind.SHUTTING_DOWN, "bye"))
        events = await answer(call)
        assert events[-1].error.kind is Kind.SHUTTING_DOWN
        steps = work.steps
        await until(lambda: work.steps > steps + 2)
        assert ref.restarts == 0


async def test_a_wedged_thread_keeps_its_slot():
    """The backend finds it again by the model's name, though nobody else remembers it."""
    work = Letters()
    work.stepping.shut()
    slot, inbox = Slot(), Inbox(1)
    kept = weakref.ref(slot)
    actor = LocalActor("letters", lambda: work, slot, capacity=1, step_limit=0.05)
    del slot
    with inbox.admit(chat("a")), suppress(ExceptionGroup):
        await actor.run(inbox, lambda: None)
    del actor
    gc.collect()
    assert kept().thread.alive
    work.stepping.open()
    await until(lambda: gc.collect() >= 0 and kept() is None)


@pytest.mark.parametrize("backends", [("asyncio", "trio"), ("asyncio", "asyncio"), ("trio", "trio")])
def test_two_loops_in_one_process_do_not_meet(backends):
    met = threading.Barrier(2)
    told: dict[int, str] = {}

    async def main(which: int) -> None:
        async with supervised(Model()) as ref:
            await ready(ref)
            met.wait(PATIENCE)
            calls = [ref.call(chat(f"{which}{number}")) for number in range(20)]
            told[which] = " ".join([text(await answer(call)) for call in calls])

    threads = [
        threading.Thread(target=anyio.run, args=(main, which), kwargs={"backend": backend})
        for which, backend in enumerate(backends)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert told == {which: " ".join(f"{which}{number}" for number in range(20)) for which in range(2)}
