"""A local model in a child process: the same seam as `EngineThread`, and a crash of native code is only a crash of it.

The child is a fresh interpreter, not a fork: torch and its threads do not survive one.  One thread here owns the child,
reads what it says and outlives it; another writes, because a pipe may be full and the loop must not wait.  What queues
for the writer is bounded by what the actor lets into an engine.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any

from illm.backends.local.frames import (
    Abort,
    Alive,
    Begin,
    Ended,
    Load,
    Loaded,
    Logged,
    Note,
    Pipe,
    Progress,
    Results,
    Stop,
    Submit,
)
from illm.backends.local.threads import Asking, Outbox
from illm.core.events import Failed
from illm.errors import GatewayError, Kind

GRACE = 5.0
"""Seconds that a child has to end when asked to, or when its engine has ended."""

_SILENCE = 10.0
"""Seconds without a sign of life after which a child counts as stuck."""


class ChildEndedError(Exception):
    """The child process ended without saying why: a signal, or native code."""


class Described:
    """The counters of a work elsewhere, as last heard."""

    def __init__(self) -> None:
        self.described: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """See `Work.describe`."""
        return self.described


class EngineProcess:
    """One model in one child process.

    Args:
        name: for the thread list and the log.
        load: makes the work; runs in the child, so it is picklable.
        outbox: where results go.
        loaded: called in a thread of ours when `load` has returned there.
        ended: called when no more results come, with what ended it (None if it was asked to).
        gone: called after `ended`, when the child has ended and its memory is free.
        note: told how far loading is.
    """

    def __init__(
        self,
        name: str,
        load: Load,
        outbox: Outbox,
        *,
        loaded: Callable[[Described], object],
        ended: Callable[[BaseException | None], object],
        gone: Callable[[], object],
        note: Note = lambda text: None,
    ) -> None:
        self._begin, self._outbox, self._note = (
            Begin(name, load, logging.getLogger("illm").getEffectiveLevel()),
            outbox,
            note,
        )
        self._loaded, self._ended, self._gone = loaded, ended, gone
        self._work = Described()
        self._out: SimpleQueue[Submit | Abort | None] = SimpleQueue()
        self._stopping = False
        self._heard: float | None = None
        self._stuck = 0.0
        self.alive = False
        self._child: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._run, name=f"illm-engine-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self.alive = True
        try:
            self._reader.start()
        except BaseException:
            self.alive = False
            raise

    def submit(self, key: int, call: Asking) -> None:
        """Have a call tokenised and taken up; its events will carry `key`."""
        self._out.put(Submit(key, call.request))

    def abort(self, key: int) -> None:
        """Drop a call; takes effect before the next step."""
        self._out.put(Abort(key))

    def stop(self) -> None:
        """Ask the child to end after what it is doing; it is killed where that takes too long."""
        self._stopping = True
        self._out.put(None)
        self._see_to_its_end()

    @property
    def pid(self) -> int | None:
        """The child's process id, once there is one."""
        return None if self._child is None else self._child.pid

    @property
    def stuck_for(self) -> float:
        """Seconds that the running step has taken so far, as far as is known; 0 between steps."""
        if self._heard is None or self._stopping:  # one that was asked to end will be gone soon, willing or not
            return 0.0
        silence = monotonic() - self._heard
        return self._stuck + silence if self._stuck or silence > _SILENCE else 0.0

    def _run(self) -> None:
        error: BaseException | None
        try:
            self._child, pipe = _spawn()
        except BaseException as failure:
            self._finish(failure)
            return
        writer = threading.Thread(target=self._write, args=(pipe,), name=f"illm-pipe-{self._begin.name}", daemon=True)
        if self._stopping:
            self._see_to_its_end()
        try:
            pipe.send(self._begin)
            writer.start()
            error = self._read(pipe)
        except EOFError:
            error = ChildEndedError(f"the engine's process ended ({_end(self._child)})")
        except BaseException as failure:
            error = failure
        self._ended(None if self._stopping else error)
        self._out.put(None)
        pipe.hang_up()
        _end(self._child)
        if writer.ident is not None:
            writer.join()
        pipe.close()
        self._finish()

    def _finish(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._ended(error)
        self.alive = False
        self._gone()

    def _see_to_its_end(self) -> None:
        """Not by the writer, which may be held up by a child that does not read."""
        if self._child is not None:
            name = f"illm-end-{self._begin.name}"
            threading.Thread(target=_end, args=(self._child,), name=name, daemon=True).start()

    def _read(self, pipe: Pipe) -> BaseException | None:
        while True:
            match pipe.receive():
                case Results(batch):
                    if not self._outbox.put(batch):  # the loop has ended: nobody is there to hear
                        return None
                case Alive(described, stuck_for):
                    self._work.described = described
                    self._stuck, self._heard = stuck_for, monotonic()
                case Progress(text):
                    self._note(text)
                case Logged(name, level, text):
                    logging.getLogger(name).log(level, "%s", text)
                case Loaded():
                    self._loaded(self._work)
                case Ended(error):
                    return error

    def _write(self, pipe: Pipe) -> None:
        while (message := self._out.get()) is not None:
            try:
                if not pipe.send(message):
                    return
            except Exception as error:  # what cannot be pickled concerns its request only
                self._fail(message, error)
        pipe.send(Stop())

    def _fail(self, message: Submit | Abort, error: Exception) -> None:
        failure = GatewayError(Kind.INTERNAL, "The request could not be handed to the engine")
        failure.__cause__ = error
        self._outbox.put([(message.key, (Failed(failure),))])


def _spawn() -> tuple[subprocess.Popen[bytes], Pipe]:
    """Start a child and return it and our end of the wire to it."""
    if not sys.executable:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, "An engine process needs an interpreter, and none is known here")
    ours, theirs = socket.socketpair()
    try:
        # What is importable here is importable there, whatever this interpreter was started as.
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # noqa: PTH100  # "" is where we are
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "illm.backends.local.child", str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()  # or our reading would not end with the child
    return child, Pipe(ours)


def _end(child: subprocess.Popen[bytes]) -> str:
    """Wait for a child to end, kill it where that takes longer than the time of grace, and return how it ended."""
    try:
        code = child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    return f"signal {-code}" if code < 0 else f"status {code}"
