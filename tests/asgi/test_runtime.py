"""How the actors are started and stopped: by a lifespan, by a host's own, or by the first request."""

import logging
import threading

import anyio
import pytest

from asgi.driver import Talk, chat
from asgi.scripted import Stage, directory
from illm.asgi.app import Gateway
from illm.config import Config

pytestmark = pytest.mark.anyio


class Lifespan:
    """A server's side of the lifespan, by hand."""

    def __init__(self, app):
        self._app = app
        self._end = anyio.Event()
        self._asked = False
        self.sent = []
        self.started = anyio.Event()
        self.over = anyio.Event()

    async def run(self):
        await self._app({"type": "lifespan", "asgi": {"version": "3.0"}}, self._receive, self._send)
        self.over.set()

    def end(self):
        self._end.set()

    async def _receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._end.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message):
        self.sent.append(message)
        self.started.set()


async def ask(app, prompt="echo a", **more):
    talk = Talk(app, "/v1/chat/completions", **chat(prompt, **more))
    await talk.run()
    return talk


async def settled(app):
    """Wait until the actors are ready."""
    found = await app._runtime.directory()
    while found.status == "loading":
        await anyio.lowlevel.checkpoint()


async def test_the_lifespan_starts_and_stops_the_actors(make_app, caplog):
    app = make_app()
    lifespan = Lifespan(app)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await lifespan.started.wait()
        await settled(app)
        assert (await ask(app)).status == 200
        lifespan.end()
        await lifespan.over.wait()
    assert [message["type"] for message in lifespan.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_start_that_fails_is_told_to_the_server(caplog):
    def broken():
        raise ValueError("no such backend")

    lifespan = Lifespan(Gateway(Config(), broken))
    await lifespan.run()
    assert lifespan.sent == [{"type": "lifespan.startup.failed", "message": "no such backend"}]
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_request_after_the_end_does_not_start_the_actors_again(make_app):
    app = make_app()
    async with app.running():
        await settled(app)
    talk = await ask(app)
    assert (talk.status, talk.error["code"]) == (503, "shutting_down")


async def test_the_end_answers_who_still_waits(make_app, stage):
    app = make_app()
    async with anyio.create_task_group() as tasks:
        async with app.running():
            await settled(app)
            talks = [Talk(app, "/v1/chat/completions", **chat("hold a", model="narrow")) for _ in range(3)]
            for talk in talks:
                tasks.start_soon(talk.run)
                await stage.cases["a"].held.wait()
            await anyio.wait_all_tasks_blocked()
        for talk in talks:
            await talk.over.wait()
    assert [talk.status for talk in talks] == [503, 503, 503]


async def test_blocks_of_one_loop_share_their_actors(make_app):
    app = make_app()
    async with app.running() as outer, app.running() as inner:
        assert inner is outer
    async with app.running() as again:
        assert again is not outer


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_first_request_starts_the_actors_and_says_so(make_app, caplog, loop):
    app = make_app()

    async def main():
        await ask(app, "")  # the actors have only begun to start
        await settled(app)
        return [await ask(app) for _ in range(2)]

    talks = anyio.run(main, backend=loop)
    assert [talk.status for talk in talks] == [200, 200]
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "first request" in warnings[0].getMessage()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_many_first_requests_start_the_actors_once(make_app, caplog, loop):
    app = make_app()

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask, app)
        return len(app._runtime._running)

    assert anyio.run(main, backend=loop) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_first_request_that_cannot_start_the_actors_is_a_503(caplog, loop):
    def broken():
        raise ValueError("no such backend")

    app = Gateway(Config(), broken)
    talk = anyio.run(ask, app, backend=loop)
    assert (talk.status, talk.error["code"]) == (503, "not_ready")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_path_that_is_none_starts_nothing(make_app, caplog):
    app = make_app()
    talk = Talk(app, "/nothing")
    await talk.run()
    assert talk.status == 404
    assert not app._runtime._running


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_two_loops_in_two_threads_have_actors_of_their_own(loop):
    """And one that stops does not drain the other."""
    app = Gateway(Config(), lambda: directory(Stage()))
    one_drains, drained = threading.Event(), threading.Event()
    statuses = {}

    async def first():
        async with app.running():
            await settled(app)
            await anyio.to_thread.run_sync(one_drains.wait)
            app.begin_drain()
            drained.set()
            statuses["first"] = (await ask(app)).status

    async def second():
        async with app.running():
            await settled(app)
            one_drains.set()
            await anyio.to_thread.run_sync(drained.wait)
            statuses["second"] = (await ask(app)).status

    threads = [threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": loop}) for main in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {"first": 503, "second": 200}


async def test_two_applications_in_one_process_know_nothing_of_each_other():
    one, two = Stage(), Stage()
    apps = [Gateway(Config(api_key="k"), lambda: directory(one)), Gateway(Config(), lambda: directory(two))]
    async with apps[0].running(), apps[1].running():
        for app in apps:
            await settled(app)
        assert (await ask(apps[0])).status == 401
        assert (await ask(apps[1])).status == 200
    assert (len(one.requests), len(two.requests)) == (0, 1)


async def test_nothing_is_left_of_a_loop_that_is_over(make_app):
    app = make_app()
    async with app.running():
        pass
    runtime = app._runtime
    assert not runtime._running
    assert not runtime._starting
    assert not runtime._held
