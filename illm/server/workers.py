"""Several processes behind one address: a parent that serves nothing, and workers that are forked from it.

Forked and not started anew: one import serves all, and the application need not be pickled.  The parent runs no loop
and no thread, so nothing is copied that a fork would break.

Where the system spreads connections among sockets that are bound to one address (Linux), each worker has its own: of
one shared socket whoever wakes first takes whatever waits, and with connections that live long it stays that way.  The
parent made the sockets and keeps them open, so that clients who wait for a worker that crashed are served by its
successor.  Elsewhere all workers accept on the same socket.
"""

import logging
import math
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

from illm.server.binding import addresses, bind, close

logger = logging.getLogger("illm.server")

WORKERS_FAILED = 4
"""The exit status where a worker crashed again and again."""
FATAL = (1, 3)
"""A worker that says so before it served anybody would say it again: the address, the application's start."""
BURST = 5
PERIOD = 60.0
"""One worker that crashes so often in so many seconds ends everything: whoever supervises us shall see it."""
_LAST_GRACE = 5.0
"""Seconds between the second signal and killing what is left."""
_STOPPING = (signal.SIGTERM, signal.SIGINT)

Work = Callable[[list[socket.socket], Callable[[], None], int], int]
"""What a worker does: its listening sockets, what to call once it accepts, and a descriptor that becomes readable when
the parent is gone; returns the exit status."""


@dataclass(slots=True, eq=False)
class Place:
    """One worker's place, and the process that has it just now."""

    number: int
    sockets: list[socket.socket]
    pid: int = 0
    ready: bool = False
    pipe: int = -1
    """Where the worker says that it is ready."""
    due: float = math.inf
    """When to start the next process, on the monotonic clock."""
    crashes: deque[float] = field(default_factory=lambda: deque(maxlen=BURST))


def bind_workers(count: int, host: str | None, port: int, uds: str | None, backlog: int) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker.

    Raises:
        OSError: the address cannot be bound.
    """
    first = bind(host, port, uds, backlog)  # not shared: another server on this port is an error, not a partner
    if uds is not None or sys.platform != "linux":
        return [first] * count
    port = first[0].getsockname()[1]
    close(first)
    return [bind(host, port, None, backlog, shared=True) for _ in range(count)]


def run_workers(
    bound: Sequence[list[socket.socket]], work: Work, on_listening: Callable[[list[tuple[str, int]]], None] | None
) -> int:
    """Keep one worker a place alive until a signal; the first lets them drain, the second ends them at once.

    Args:
        bound: each worker's listening sockets; closed when the end begins.
        work: what a worker does.
        on_listening: called with the addresses once all workers accept.

    Returns:
        The exit status, as `run`'s, or `WORKERS_FAILED`.
    """
    return _Parent([Place(number, sockets) for number, sockets in enumerate(bound, 1)], work, on_listening).run()


class _Parent:
    def __init__(
        self, places: list[Place], work: Work, on_listening: Callable[[list[tuple[str, int]]], None] | None
    ) -> None:
        self._places = places
        self._work = work
        self._on_listening = on_listening
        self._signals: list[int] = []
        self._status = 0
        self._kill_at = math.inf
        # Nobody ever writes to it: a worker reads its end when no parent is left that holds ours.
        self._orphaned, self._alive = os.pipe()

    def run(self) -> int:
        with _wakened_by_signals() as wakeup:
            for place in self._places:
                self._start(place)
            while any(place.pid for place in self._places) or (not self._ending and self._next_due() < math.inf):
                self._wait(wakeup)
                self._reap()
                self._look_around()
        os.close(self._orphaned)
        os.close(self._alive)
        return 128 + self._signals[1] if len(self._signals) > 1 else self._status

    @property
    def _ending(self) -> bool:
        return bool(self._signals or self._status)

    def _next_due(self) -> float:
        return min(place.due for place in self._places)

    def _wait(self, wakeup: int) -> None:
        until = min(self._kill_at, math.inf if self._ending else self._next_due())
        pipes = [place.pipe for place in self._places if place.pipe >= 0]
        timeout = None if until == math.inf else max(0.0, until - time.monotonic()) * 1000
        poll = select.poll()  # `select` takes no descriptor above 1023, and each worker has some
        for descriptor in (wakeup, *pipes):
            poll.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(timeout)}
        if wakeup in readable:
            for number in os.read(wakeup, 512):
                if number in _STOPPING:
                    self._stop(number)
        for place in self._places:
            if place.pipe in readable:
                place.ready = bool(os.read(place.pipe, 1))  # else it ended before it could say so
                os.close(place.pipe)
                place.pipe = -1

    def _stop(self, number: int) -> None:
        self._signals.append(number)
        if len(self._signals) == 1:
            logger.info("stopping: running requests may finish")
        else:
            logger.warning("stopping at once")
            self._kill_at = min(self._kill_at, time.monotonic() + _LAST_GRACE)
        self._end_workers(signal.SIGTERM)

    def _end_workers(self, number: int) -> None:
        for place in self._places:
            close(place.sockets)
            if place.pid:
                os.kill(place.pid, number)

    def _reap(self) -> None:
        for place in self._places:
            if place.pid and (ended := os.waitpid(place.pid, os.WNOHANG))[0]:
                place.pid = 0
                self._mourn(place, os.waitstatus_to_exitcode(ended[1]))

    def _mourn(self, place: Place, status: int) -> None:
        if self._ending:
            return
        if status in FATAL and not place.ready:
            self._status = status
            self._end_workers(signal.SIGTERM)
            return
        self._again(place, f"signal {-status}" if status < 0 else f"status {status}")

    def _again(self, place: Place, how: str) -> None:
        now = time.monotonic()
        place.crashes.append(now)
        recent = sum(now - crash < PERIOD for crash in place.crashes)
        if recent == BURST:
            logger.error("worker %d ended with %s, as %d before it within %g s", place.number, how, BURST - 1, PERIOD)
            self._status = WORKERS_FAILED
            self._end_workers(signal.SIGTERM)
            return
        pause = 0.0 if recent == 1 else 0.5 * 2 ** (recent - 2)
        logger.error("worker %d ended with %s; another is started in %g s", place.number, how, pause)
        place.due = now + pause

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._kill_at:
            self._kill_at = math.inf
            self._end_workers(signal.SIGKILL)
        if self._ending:
            return
        for place in self._places:
            if now >= place.due:
                place.due = math.inf
                self._start(place)
        if self._on_listening is not None and all(place.ready for place in self._places):
            self._on_listening(addresses(self._places[0].sockets))
            self._on_listening = None

    def _start(self, place: Place) -> None:
        place.ready = False
        place.pipe, tell = os.pipe()
        # A signal that comes before the child has handlers of its own must not be taken for the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            place.pid = os.fork()
            if place.pid == 0:
                self._live(place, tell)
        except OSError as exc:  # no memory, or too many processes: the other workers serve on
            os.close(place.pipe)
            place.pipe = -1
            self._again(place, exc.strerror or str(exc))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        os.close(tell)

    def _live(self, place: Place, tell: int) -> NoReturn:
        """Be the worker; never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # A terminal sends it to all of us: the parent decides what it means.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            os.close(self._alive)
            for other in self._places:
                if other.pipe >= 0:
                    os.close(other.pipe)
                if other is not place and other.sockets is not place.sockets:
                    close(other.sockets)

            def ready() -> None:
                os.write(tell, b"!")
                os.close(tell)

            status = self._work(place.sockets, ready, self._orphaned)
        except BaseException:
            logger.exception("worker %d failed", place.number)
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            logging.shutdown()
            os._exit(status)  # the parent's own way out of its frames is not ours


@contextmanager
def _wakened_by_signals() -> Iterator[int]:
    """Make signals readable from a descriptor; as it was before, afterwards."""
    readable, writable = os.pipe()
    for end in (readable, writable):
        os.set_blocking(end, False)
    numbers = (*_STOPPING, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
