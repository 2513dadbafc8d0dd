"""The seam to the event loops: posting from threads, and tasks that belong to a loop."""

import logging
import threading

import anyio
import pytest
from acting import until

from illm.loop.tasks import hold, poster


@pytest.mark.anyio
async def test_posts_run_in_the_loop_in_order():
    post, ran, here = poster(), [], threading.get_ident()

    def work():
        for number in range(100):
            assert post(lambda number=number: ran.append((number, threading.get_ident())))

    thread = threading.Thread(target=work)
    thread.start()
    await until(lambda: len(ran) == 100)
    thread.join()
    assert ran == [(number, here) for number in range(100)]


@pytest.mark.anyio
async def test_a_callback_that_raises_is_logged_and_hurts_nobody(caplog):
    post, done = poster(), anyio.Event()
    with caplog.at_level(logging.ERROR, "illm.loop"):
        post(lambda: 1 // 0)
        post(done.set)
        with anyio.fail_after(5):
            await done.wait()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_after_the_loop_has_ended_a_post_says_so(backend):
    async def main():
        return poster()

    assert anyio.run(main, backend=backend)(print) is False


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_held_task_lives_as_long_as_its_loop(backend):
    told = []

    async def act():
        told.append("began")
        try:
            await anyio.sleep_forever()
        finally:
            told.append("ended")

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.cancel()
        held = hold(act, "held")
        await until(lambda: told)
        return held

    anyio.run(main, backend=backend)
    assert told == ["began", "ended"]
