import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from illm.backends.local import give_way as module
from illm.backends.local.give_way import STEPS, give_way
from illm.backends.local.threads import EngineThread, Outbox

from .fakes import PATIENCE, Letters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def nicer_and_a_child_of_it() -> tuple[int, int]:
    give_way()
    with ThreadPoolExecutor(1) as pool:
        return niceness(), pool.submit(niceness).result()


def test_a_thread_and_those_it_starts_are_nicer_and_no_other_is():
    before = niceness()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(nicer_and_a_child_of_it).result() == (min(19, before + STEPS),) * 2
    assert niceness() == before


def test_an_engine_gives_way():
    found, loaded, gone = [], threading.Event(), threading.Event()

    def load():
        found.append(niceness())
        return Letters()

    outbox = Outbox(lambda callback: True, lambda batch: None)
    engine = EngineThread(
        "test", load, outbox, loaded=lambda work: loaded.set(), ended=lambda error: None, gone=gone.set
    )
    engine.start()
    assert loaded.wait(PATIENCE)
    engine.stop()
    assert gone.wait(PATIENCE)
    assert found == [min(19, niceness() + STEPS)]


def test_where_it_is_forbidden_it_runs_as_before(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    before = niceness()
    monkeypatch.setattr(module.os, "setpriority", forbidden)
    give_way()
    assert niceness() == before
