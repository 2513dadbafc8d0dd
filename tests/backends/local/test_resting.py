"""A thread without work keeps no pool."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")

from illm.backends.local.resting import leave_pool, take

from .fakes import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc; GNU's OpenMP")


def _threads() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def _in_a_thread(act: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _gone(threads: set[str]) -> bool:
    """Whether threads end: the last of it is the kernel's, a moment after they were told."""
    until = monotonic() + PATIENCE
    while _threads() & threads:
        if monotonic() > until:
            return False
    return True


def _multiply() -> object:
    """Something large enough for two threads."""
    return torch.ones(1 << 20).exp()


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_pool_goes_and_comes_back() -> None:
    def act() -> None:
        torch.set_num_threads(2)
        before = _threads()
        expected = _multiply()
        pool = _threads() - before
        assert len(pool) == 1
        assert leave_pool()
        assert _gone(pool)
        assert torch.equal(_multiply(), expected)
        assert len(_threads() - before) == 1

    _in_a_thread(act)


def test_a_thread_that_waits_for_work_has_no_pool() -> None:
    def act() -> None:
        torch.set_num_threads(2)
        before = _threads()
        _multiply()
        pool = _threads() - before
        assert pool
        queue: SimpleQueue[bool] = SimpleQueue()
        sender = threading.Thread(target=lambda: queue.put(_gone(pool)))
        sender.start()
        assert take(queue)
        sender.join()

    _in_a_thread(act)


def test_what_is_there_is_taken_at_once() -> None:
    def act() -> None:
        torch.set_num_threads(2)
        before = _threads()
        _multiply()
        queue: SimpleQueue[int] = SimpleQueue()
        queue.put(7)
        assert take(queue) == 7
        assert _threads() - before

    _in_a_thread(act)


def test_without_torch_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert not leave_pool()


def test_an_openmp_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr("illm.backends.local.resting.ctypes.CDLL", refuse)
    assert not leave_pool()


def test_another_openmp_whose_pause_is_everybodys_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class LLVM:
        """What is asked of the library: pausing it is no part."""

        def __getattr__(self, name: str) -> object:
            if name == "__kmpc_fork_call":
                return print
            raise AssertionError(name)

    monkeypatch.setattr("illm.backends.local.resting.ctypes.CDLL", lambda path: LLVM())
    assert not leave_pool()


def test_the_number_of_threads_that_was_set_stays() -> None:
    def act() -> None:
        torch.set_num_threads(3)
        before = _threads()
        _multiply()
        assert len(_threads() - before) == 2
        assert leave_pool()
        assert torch.get_num_threads() == 3
        assert _gone(_threads() - before)
        _multiply()
        assert len(_threads() - before) == 2

    _in_a_thread(act)
