"""Access lines that are written together: none is lost, none overtakes another, and other handlers notice nothing."""

import io
import json
import logging
import subprocess
import sys
import threading

import anyio
import pytest
import trio

from asgi.driver import driving
from illm import log
from illm.asgi.access_log import TICK, Record

logger = logging.getLogger("illm.test")


@pytest.fixture
def logged():
    """Return a function that makes the log as the command line does, and returns what shows what was written so far.

    It is called in the test: before that, pytest would add handlers of its own.
    """
    package = logging.getLogger("illm")
    before = package.handlers[:], package.level, package.propagate

    def configure(form="text"):
        stream = io.StringIO()
        log.configure(form, "info")
        package.handlers[0].setStream(stream)
        return stream.getvalue

    yield configure
    package.handlers[:], package.propagate = before[0], before[2]
    package.setLevel(before[1])


def said(text):
    return [line.partition(": ")[2] for line in text.splitlines()]


@pytest.mark.trio
async def test_a_line_waits_for_the_next_tick_and_no_longer(make_app, logged, autojump_clock):
    shown = logged()
    async with driving(make_app()) as driver:
        await driver.chat("echo a", headers={"x-request-id": "first"})
        await driver.chat("echo b", headers={"x-request-id": "second"})
        assert "id=first" not in shown()
        await trio.sleep(TICK * 1.5)
        first, second = (line for line in shown().splitlines() if "illm.access" in line)
        assert " INFO illm.access: id=first method=POST route=/v1/chat/completions status=200 backend=tr" in first
        assert "id=second" in second
        await driver.chat("echo c", headers={"x-request-id": "third"})
        assert "id=third" not in shown()
        await trio.sleep(TICK * 1.5)
        assert "id=third" in shown()


@pytest.mark.anyio
async def test_the_end_of_the_lifespan_writes_what_waits(make_app, logged):
    shown = logged()
    async with driving(make_app()) as driver:
        await driver.chat("echo a", headers={"x-request-id": "only"})
        assert "id=only" not in shown()
    assert "id=only" in shown()


@pytest.mark.anyio
async def test_a_signal_writes_what_waits(make_app, logged):
    shown = logged()
    app = make_app()
    async with driving(app) as driver:
        await driver.chat("echo a", headers={"x-request-id": "only"})
        app.begin_drain()
        assert "id=only" in shown()


@pytest.mark.anyio
async def test_lines_come_in_the_order_of_what_happened(make_app, logged):
    shown = logged()
    async with driving(make_app()) as driver:
        await driver.chat("echo a", headers={"x-request-id": "first"})
        logger.warning("then this")
        await driver.chat("crash", headers={"x-request-id": "second"})
    marks = ("id=first", "then this", "ERROR illm.asgi: second:", "id=second")
    assert sorted(map(shown().index, marks)) == list(map(shown().index, marks))


@pytest.mark.anyio
async def test_a_request_that_came_when_nothing_ran_any_more_is_written_at_once(make_app, logged):
    shown = logged()
    app = make_app()
    async with driving(app) as driver:
        talk = driver.begin("/v1/chat/completions", headers={"content-type": "application/json"})
        talk._pieces = []
        await anyio.wait_all_tasks_blocked()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(talk.run)
        talk.leave()
    assert "error=client_gone" in shown()


@pytest.mark.anyio
async def test_a_second_handler_gets_every_record_at_once(make_app, logged, caplog):
    shown = logged()
    package = logging.getLogger("illm")
    package.addHandler(caplog.handler)
    try:
        async with driving(make_app()) as driver:
            await driver.chat("echo a", headers={"x-request-id": "only"})
            assert "id=only" in shown()
            [record] = [record for record in caplog.records if record.name == "illm.access"]
            assert record.illm["id"] == "only"
    finally:
        package.removeHandler(caplog.handler)


@pytest.mark.parametrize("where", ["illm.access", "illm"])
def test_a_filter_or_a_handler_of_somebody_s_is_heard(logged, where):
    logged()

    def nothing(record):
        return False

    logger = logging.getLogger("illm.access" if where == "illm.access" else "illm")
    if where == "illm.access":
        logger.addFilter(nothing)
    else:
        logger.propagate = True
    try:
        assert not log.hold(Record("r", "GET", 0.0))
    finally:
        logger.removeFilter(nothing)
        logging.getLogger("illm").propagate = False
    assert log.hold(Record("r", "GET", 0.0))


def test_very_many_lines_do_not_wait_for_the_tick(logged):
    shown = logged()
    for number in range(log.MOST_HELD):
        assert "id=n0" not in shown()
        assert log.hold(Record(f"n{number}", "GET", 0.0))
    assert len(said(shown())) == log.MOST_HELD


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_held_line_is_the_one_that_a_record_would_have_been(logged, form):
    shown = logged(form)
    entry = Record("r 1", "GET", 0.0, "/x", 200, model="a=b", queue=0.5, created=1_700_000_000.0426)
    record = logging.LogRecord("illm.access", logging.INFO, __file__, 1, "%s", (entry.text(),), None)
    record.created, record.msecs, record.illm = entry.created, 42.0, entry.fields()
    logging.getLogger("illm").handlers[0].emit(record)
    assert log.hold(entry)
    log.flush()
    first, second = shown().splitlines()
    assert first == second
    assert 'id="r 1"' in first if form == "text" else json.loads(first)["id"] == "r 1"


def test_nothing_is_lost_when_the_process_ends():
    code = """
from illm import log
from illm.asgi.access_log import Record
log.configure("text", "info")
assert log.hold(Record("last", "GET", 0.0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "id=last" in done.stderr


def test_a_stream_that_was_closed_costs_no_request_its_answer(logged, monkeypatch):
    logged()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines = logging.getLogger("illm").handlers[0]
    stream, closed = lines.stream, io.StringIO()
    closed.close()
    lines.setStream(closed)
    assert log.hold(Record("r", "GET", 0.0))
    log.flush()
    lines.setStream(stream)


class Full(io.StringIO):
    """A full disk, or a pipe that nobody reads: what was written fails again whenever it is flushed."""

    def write(self, text):
        raise OSError("no space left")

    def flush(self):
        raise OSError("no space left")


@pytest.mark.trio
async def test_a_stream_that_cannot_be_flushed_does_not_end_the_gateway(make_app, logged, autojump_clock, monkeypatch):
    logged()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines = logging.getLogger("illm").handlers[0]
    async with driving(make_app()) as driver:
        stream = lines.setStream(Full())
        assert (await driver.chat("echo a")).status == 200
        await trio.sleep(TICK * 1.5)
        lines.stream = stream  # `setStream` flushes
        assert (await driver.chat("echo b", headers={"x-request-id": "later"})).status == 200
        await trio.sleep(TICK * 1.5)
        assert "id=later" in stream.getvalue()


def test_very_many_lines_into_such_a_stream_are_nobody_s_failure(logged, monkeypatch):
    logged()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines = logging.getLogger("illm").handlers[0]
    stream = lines.setStream(Full())
    assert all(log.hold(Record("r", "GET", 0.0)) for _ in range(log.MOST_HELD + 1))
    lines.stream = stream


def test_a_thread_that_has_logged_leaves_the_log_to_others(logged):
    shown = logged()
    for name in ("first", "second"):
        thread = threading.Thread(target=logger.info, args=(name,), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    log.hold(Record("held", "GET", 0.0))
    log.flush()
    logger.info("third")
    names = [line.split(": ")[-1] for line in shown().splitlines()]
    assert [name for name in names if name in ("first", "second", "third")] == ["first", "second", "third"]
