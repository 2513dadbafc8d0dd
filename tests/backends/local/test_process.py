"""An engine in a child process: what crosses, and every way that either of the two can end."""

import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from illm.actors.call import Call
from illm.actors.inbox import Inbox
from illm.backends.local import process
from illm.backends.local.child import EngineCrashError
from illm.backends.local.process import ChildEndedError, EngineProcess
from illm.backends.local.threads import Outbox
from illm.core.events import Delta, Failed, Finish
from illm.errors import GatewayError, Kind

from . import child_works
from .fakes import DONE, PATIENCE, chat
from .test_threads import Loop

pytestmark = [
    pytest.mark.usefixtures("stray_mailboxes"),
    pytest.mark.skipif(os.name != "posix", reason="needs a system that hands sockets to child processes"),
]


STOP = Finish(0, "stop")


class Engine:
    """An engine process and everything it has told."""

    def __init__(self, load=child_works.letters) -> None:
        self.loop = Loop()
        self.got: dict[int, list] = {}
        self.told: list[str] = []
        self.notes: list[str] = []
        self.error: BaseException | None = None
        self.work = None
        self.loaded, self.gone = threading.Event(), threading.Event()
        self.process = EngineProcess(
            "test", load, Outbox(self.loop.post, self.deliver),
            loaded=self.note_loaded, ended=self.note_ended, gone=self.note_gone, note=self.notes.append,
        )  # fmt: skip
        self.inbox = Inbox(1000)

    def deliver(self, batch) -> None:
        for key, events in batch:
            self.got.setdefault(key, []).extend(events)

    def note_loaded(self, work) -> None:
        self.work = work
        self.told.append("loaded")
        self.loaded.set()

    def note_ended(self, error) -> None:
        self.error = error
        self.told.append("ended")

    def note_gone(self) -> None:
        self.told.append("gone")
        self.gone.set()

    def start(self) -> "Engine":
        self.process.start()
        assert self.loaded.wait(PATIENCE)
        return self

    def ask(self, key: int, text: str) -> Call:
        call = self.inbox.admit(chat(text))
        assert self.inbox.take_nowait() is call
        self.process.submit(key, call)
        return call

    def until(self, condition) -> None:
        while not condition():
            self.loop.run_one()

    def described(self, condition) -> dict:
        """Wait for counters of which it is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.work.describe()):
            assert time.monotonic() < deadline
            os.sched_yield()
        return self.work.describe()

    def ended(self) -> BaseException | None:
        assert self.gone.wait(PATIENCE)
        assert self.told[-2:] == ["ended", "gone"]
        assert not self.process.alive
        return self.error


@pytest.fixture
def engine():
    engine = Engine().start()
    yield engine
    engine.process.stop()
    assert engine.gone.wait(PATIENCE)


def test_answers_cross_and_so_do_refusals_with_their_kind(engine):
    for key, text in enumerate(("abc", "too long", "unaddable", "no room", "unpreparable", "d")):
        engine.ask(key, text)
    engine.until(lambda: len(engine.got) == 6 and DONE in engine.got[0])
    assert engine.got[0] == [Delta(0, "a", 1), Delta(0, "b", 1), Delta(0, "c", 1), STOP, DONE]
    assert engine.got[5] == [Delta(0, "d", 1), STOP, DONE]
    kinds = {key: events[0].error.kind for key, events in engine.got.items() if isinstance(events[0], Failed)}
    assert kinds == {
        1: Kind.CONTEXT_LENGTH, 2: Kind.INTERNAL, 3: Kind.CONTEXT_LENGTH, 4: Kind.INTERNAL,
    }  # fmt: skip
    assert not any("secret" in event.error.message for event in (engine.got[2][0], engine.got[4][0]))


def test_it_is_another_process_and_what_it_logs_and_counts_comes_here(caplog):
    with caplog.at_level(logging.INFO, "illm"):
        engine = Engine().start()
        assert engine.described(lambda counters: "pid" in counters)["pid"] == engine.process.pid != os.getpid()
        engine.process.stop()
        assert engine.ended() is None
    assert engine.notes == ["loading letters"]
    assert [record.getMessage() for record in caplog.records if record.name == "illm.local"] == ["letters are here"]


def test_an_aborted_call_makes_no_more_work(engine):
    call = engine.ask(1, "endless")
    engine.until(lambda: 1 in engine.got)
    call.leave()
    engine.process.abort(1)
    assert engine.described(lambda counters: counters.get("aborted") == 1)["running"] == 0
    engine.ask(2, "b")
    engine.until(lambda: DONE in engine.got.get(2, ()))


@pytest.mark.parametrize(
    ("load", "kind", "shown"),
    [(child_works.missing, GatewayError, "no letters"), (child_works.broken, EngineCrashError, "OSError")],
)
def test_what_loading_raises_comes_here(load, kind, shown):
    engine = Engine(load)
    engine.process.start()
    error = engine.ended()
    assert type(error) is kind
    assert shown in str(error)
    assert "loaded" not in engine.told
    if isinstance(error, GatewayError):
        assert (error.kind, error.param) == (Kind.MODEL_LOAD_FAILED, "model")


def test_what_cannot_be_pickled_is_an_error_and_no_hang():
    engine = Engine(lambda note: None)
    engine.process.start()
    assert isinstance(engine.ended(), pickle.PicklingError | AttributeError)


def test_killed_it_has_ended_and_says_how(engine):
    engine.ask(1, "endless")
    engine.until(lambda: 1 in engine.got)
    os.kill(engine.process.pid, signal.SIGKILL)
    error = engine.ended()
    assert isinstance(error, ChildEndedError)
    assert "signal 9" in str(error)
    engine.process.submit(2, engine.inbox.admit(chat("late")))
    engine.process.abort(2)


@pytest.mark.parametrize(("text", "shown"), [("crash", "signal 11"), ("raise", "the device fell over")])
def test_a_crash_ends_only_the_child(engine, text, shown):
    engine.ask(1, text)
    assert shown in str(engine.ended())


@pytest.mark.parametrize("text", ["wedge", "hold"])
def test_one_that_does_not_end_when_asked_is_killed(engine, text, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.2)
    engine.ask(1, text)
    engine.ask(2, "behind it")
    pid = engine.process.pid
    engine.process.stop()
    assert engine.ended() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stopped_before_it_has_loaded():
    engine = Engine()
    engine.process.start()
    engine.process.stop()
    assert engine.ended() is None


def test_a_child_that_is_silent_counts_as_stuck(engine, monkeypatch):
    engine.described(lambda counters: "pid" in counters)
    assert engine.process.stuck_for == 0
    monkeypatch.setattr(process, "_SILENCE", 0.0)
    os.kill(engine.process.pid, signal.SIGSTOP)
    first = engine.process.stuck_for
    assert engine.process.stuck_for > first > 0
    os.kill(engine.process.pid, signal.SIGKILL)


PARENT = """
import sys, threading
from backends.local import child_works
from backends.local.test_process import Engine
engine = Engine().start()
if sys.argv[1] == "busy":
    engine.ask(1, "hold")
print(engine.process.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
@pytest.mark.parametrize("doing", ["idle", "busy"])
def test_no_child_outlives_a_parent_that_was_killed(doing):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, doing], stdout=subprocess.PIPE, env=env)
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    ended = select.poll()
    ended.register(child, select.POLLIN)
    assert ended.poll(PATIENCE * 1000), "the child lives on"
    os.close(child)
