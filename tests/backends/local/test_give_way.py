import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from illm.backends.local import backend, loaders
from illm.backends.local import give_way as module
from illm.backends.local.give_way import STEPS, give_way
from illm.backends.local.sources import Source
from illm.backends.local.threads import EngineThread, Outbox
from illm.config import Config

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


@pytest.mark.parametrize(
    ("allowed", "kind", "steps"),
    [
        ((), "embedding", 0),
        ((), "audio", 0),
        (("*",), "embedding", STEPS),
        (("*",), "audio", STEPS),
        (("*",), "text", 0),
    ],
)
def test_what_does_not_stream_gives_way_to_what_does(monkeypatch, allowed, kind, steps):
    """Alone, as the only model of a gateway, there is nobody to give way to but the loop."""
    found, loads = [], []
    monkeypatch.setattr(loaders, "_LOADERS", {kind: lambda *_: found.append(niceness())})
    monkeypatch.setattr(backend, "LocalActor", lambda name, load, slot, **_: loads.append(load))
    local = backend.Local(Config(framework="vllm", allow_models=allowed))
    local._serve(Source("tiny", None, kind), named=False).make_actor()
    before = niceness()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loads[0]).result()
    assert found == [min(19, before + steps)]


def test_where_it_is_forbidden_it_runs_as_before(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    before = niceness()
    monkeypatch.setattr(module.os, "setpriority", forbidden)
    give_way()
    assert niceness() == before
