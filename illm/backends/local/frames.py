"""What an engine's child process and its parent say to each other, and how it crosses the socket between them.

Both ends are the same code of ours, and nobody else can reach the socket, so values cross as pickles, each after its
length.  Sending is for any thread and may wait; receiving is for one.
"""

import pickle
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

from illm.backends.local.work import Batch, Work
from illm.core.requests import Request

_HEAD = struct.Struct("!Q")
_MOST = 1 << 31
"""Bytes of one value; a longer one is a stream that has lost its place."""

Note: TypeAlias = Callable[[str], None]
"""Told how far loading is."""

Load: TypeAlias = Callable[[Note], Work]
"""Makes a work; has to be picklable where it crosses."""


@dataclass(frozen=True, slots=True)
class Begin:
    """To the child, first: load this, and log what is at least this severe."""

    name: str
    load: Load
    level: int


@dataclass(frozen=True, slots=True)
class Submit:
    """To the child: answer a request, as call `key`."""

    key: int
    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """To the child: drop a call, whatever its state."""

    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To the child: end after what you are doing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """To the parent: how far loading is."""

    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """To the parent: a line of the log, which has one writer."""

    name: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """To the parent: calls may come."""


@dataclass(frozen=True, slots=True)
class Results:
    """To the parent: what a step gave."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Alive:
    """To the parent, every moment: counters, and for how many seconds the running step has taken so far."""

    described: dict[str, Any]
    stuck_for: float


@dataclass(frozen=True, slots=True)
class Ended:
    """To the parent, last: what ended the engine; None if it was asked to."""

    error: Exception | None


class Pipe:
    """One end.

    Args:
        end: a connected stream socket; the pipe closes it.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reading = end.makefile("rb")
        self._lock = Lock()

    def send(self, value: Any) -> bool:
        """Send a value; False where the other end has gone.  Raises whatever pickling raises."""
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            with self._lock:
                self._end.sendall(_HEAD.pack(len(data)) + data)
        except (OSError, ValueError):
            return False
        return True

    def receive(self) -> Any:
        """Wait for the next value.

        Raises:
            EOFError: the other end has gone.
        """
        [length] = _HEAD.unpack(self._read(_HEAD.size))
        if length > _MOST:
            raise EOFError
        return pickle.loads(self._read(length))  # noqa: S301  # from our own code, over a socket nobody else has

    def hang_up(self) -> None:
        """End both directions, also for threads that are waiting in one."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket, which nobody uses any more.  Idempotent."""
        self._reading.close()
        self._end.close()

    def _read(self, count: int) -> bytes:
        try:
            data = self._reading.read(count)
        except (OSError, ValueError) as error:
            raise EOFError from error
        if len(data) < count:
            raise EOFError
        return data
