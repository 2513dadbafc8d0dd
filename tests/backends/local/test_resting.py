"""A thread without work keeps no pool."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import sys
import threading
from collections.abc import Callable, Iterator
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


def _in_a_thread(act: Callable[[Callable[[], set[str]]], None], threads: int = 2) -> None:
    """Act in a thread of its own, given what multiplies and tells which threads have come since the beginning."""
    failures: list[BaseException] = []

    def run() -> None:
        torch.set_num_threads(threads)
        before = _threads()

        def multiply() -> set[str]:
            torch.ones(1 << 20).exp()
            return _threads() - before

        try:
            act(multiply)
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


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_pool_goes_and_comes_back_as_large(threads: int) -> None:
    def act(multiply: Callable[[], set[str]]) -> None:
        pool = multiply()
        assert len(pool) == threads - 1
        assert leave_pool()
        assert _gone(pool)
        assert torch.get_num_threads() == threads
        assert len(multiply()) == threads - 1

    _in_a_thread(act, threads)


def test_a_thread_that_waits_for_work_has_no_pool() -> None:
    def act(multiply: Callable[[], set[str]]) -> None:
        pool = multiply()
        assert pool
        queue: SimpleQueue[bool] = SimpleQueue()
        sender = threading.Thread(target=lambda: queue.put(_gone(pool)))
        sender.start()
        assert take(queue)
        sender.join()

    _in_a_thread(act)


def test_what_is_there_is_taken_at_once() -> None:
    def act(multiply: Callable[[], set[str]]) -> None:
        pool = multiply()
        queue: SimpleQueue[int] = SimpleQueue()
        queue.put(7)
        assert take(queue) == 7
        assert pool <= _threads()

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
