"""A condition's waiters: woken in the loop's next round, or run where they are woken."""

import asyncio

import anyio
import pytest

from illm.loop.tasks import poster
from illm.loop.wake import Wake, native_loop

pytestmark = pytest.mark.anyio


class Waiting:
    """Tasks that wait on one condition again and again, and note their turns."""

    def __init__(self):
        self.wake = Wake()
        self.turns = []
        self.ready = anyio.Event()

    async def wait(self, name, times=1, *, task_status=anyio.TASK_STATUS_IGNORED):
        task_status.started()
        for _ in range(times):
            await self.wake.wait()
            self.turns.append(name)


async def in_a_callback(act):
    """Run something in a callback of the loop, and wait until it has run."""
    done = anyio.Event()
    poster()(lambda: (act(), done.set()))
    with anyio.fail_after(5):
        await done.wait()


async def test_a_callback_runs_those_it_hands_over_to_before_it_goes_on():
    waiting = Waiting()
    async with anyio.create_task_group() as tasks:
        for name in "ab":
            await tasks.start(waiting.wait, name)
        await anyio.lowlevel.checkpoint()
        await in_a_callback(lambda: (waiting.wake.hand_over(), waiting.turns.append("after")))
    expected = ["a", "b", "after"] if native_loop() is not None else ["after", "a", "b"]
    assert waiting.turns == expected


async def test_a_task_that_is_handed_over_to_may_wait_again():
    waiting = Waiting()
    async with anyio.create_task_group() as tasks:
        await tasks.start(waiting.wait, "a", 3)
        await anyio.lowlevel.checkpoint()
        for _ in range(3):
            await in_a_callback(waiting.wake.hand_over)
            await anyio.lowlevel.checkpoint()
    assert waiting.turns == ["a"] * 3


async def test_from_a_task_nobody_is_run_at_once():
    waiting = Waiting()
    async with anyio.create_task_group() as tasks:
        await tasks.start(waiting.wait, "a")
        await anyio.lowlevel.checkpoint()
        waiting.wake.hand_over()
        assert waiting.turns == []
    assert waiting.turns == ["a"]


async def test_a_waiter_that_was_cancelled_is_not_run():
    waiting = Waiting()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            await tasks.start(waiting.wait, "a")
            await anyio.lowlevel.checkpoint()

            def cancel_and_wake():
                scope.cancel()
                waiting.wake.hand_over()

            await in_a_callback(cancel_and_wake)
    # Either is allowed where both happen at once; that it ends, and that nothing raises in the callback, is not.
    assert waiting.turns in ([], ["a"])
    await in_a_callback(waiting.wake.hand_over)


async def test_who_fails_when_it_is_run_fails_in_its_own_task():
    wake = Wake()

    async def fail():
        await wake.wait()
        raise LookupError("mine")

    async def wake_it():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            await in_a_callback(lambda: (wake.hand_over(), told.append("callback goes on")))

    told = []
    with pytest.raises(ExceptionGroup) as caught:
        await wake_it()
    assert caught.group_contains(LookupError, match="mine")
    assert told == ["callback goes on"]


async def test_the_one_that_is_run_is_the_current_task_and_has_its_own_scopes():
    wake, seen = Wake(), []

    async def look():
        with anyio.CancelScope() as scope:
            await wake.wait()
            seen.append(anyio.get_current_task().name)
            scope.cancel()
            await anyio.sleep_forever()
        seen.append(scope.cancelled_caught)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look, name="looker")
        await anyio.wait_all_tasks_blocked()
        await in_a_callback(wake.hand_over)
    assert seen == ["looker", True]


async def test_in_a_callback_no_task_is_running():
    if native_loop() is None:
        pytest.skip("trio's callbacks are its own affair")
    seen = []
    await in_a_callback(lambda: seen.append(asyncio.current_task()))
    assert seen == [None]
