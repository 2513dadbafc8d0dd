"""The inside of an engine's child process: `python -m illm.backends.local.child FD`.

It is the engine thread and its prompt thread, in a process of their own: this file only carries what they are told and
what they make.  The main thread listens to the parent and nothing else; when the parent has gone, so has the process,
whatever its threads are doing.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import NoReturn

from illm.backends.local.frames import (
    Abort,
    Alive,
    Begin,
    Ended,
    Loaded,
    Logged,
    Pipe,
    Progress,
    Results,
    Stop,
    Submit,
)
from illm.backends.local.threads import EngineThread
from illm.backends.local.work import Batch, Work
from illm.core.events import Done, Failed
from illm.core.requests import Request
from illm.errors import GatewayError

logger = logging.getLogger("illm.local")

_EVERY = 0.5
"""Seconds between signs of life."""

_PR_SET_PDEATHSIG = 1


class EngineCrashError(Exception):
    """What ended an engine in its child process, as text: its own type may exist only there."""


@dataclass(slots=True)
class Asked:
    """A call, as far as a child process knows it."""

    request: Request
    left: bool = False


class Child:
    """One engine and its wire.

    Args:
        pipe: to the parent.
        begin: what to load.
    """

    def __init__(self, pipe: Pipe, begin: Begin) -> None:
        self._pipe = pipe
        self._asked: dict[int, Asked] = {}
        self._work: Work | None = None
        self._over = threading.Event()
        self._engine = EngineThread(
            begin.name,
            lambda: begin.load(lambda text: void(pipe.send(Progress(text)))),
            self,
            loaded=self._note_loaded,
            ended=self._note_ended,
            gone=self._leave,
        )

    def run(self) -> None:
        """Do as told until the parent hangs up."""
        self._engine.start()
        while True:
            match self._pipe.receive():
                case Submit(key, request):
                    self._asked[key] = asked = Asked(request)
                    self._engine.submit(key, asked)
                case Abort(key):
                    if (left := self._asked.pop(key, None)) is not None:
                        left.left = True
                    self._engine.abort(key)
                case Stop():
                    self._engine.stop()

    def put(self, batch: Batch) -> bool:
        """Take results of either thread; see `Outbox.put`."""
        for key, events in batch:
            last = events[-1] if events else None
            if isinstance(last, Done | Failed):
                self._asked.pop(key, None)
            if isinstance(last, Failed) and last.error.__cause__ is not None:  # which does not cross
                logger.error("%s", last.error.message, exc_info=last.error.__cause__)
        return self._pipe.send(Results(batch))

    def _note_loaded(self, work: Work) -> None:
        self._work = work
        self._pipe.send(Loaded())
        threading.Thread(target=self._show_life, name="illm-alive", daemon=True).start()

    def _note_ended(self, error: BaseException | None) -> None:
        self._over.set()
        told = error if error is None or isinstance(error, GatewayError) else EngineCrashError(_shown(error))
        self._pipe.send(Ended(told))

    def _show_life(self) -> None:
        work = self._work
        while work is not None and self._pipe.send(Alive(work.describe(), self._engine.stuck_for)):
            if self._over.wait(_EVERY):
                return

    def _leave(self) -> NoReturn:
        # Not by way of Python's own end: it would wait for what other threads of native libraries are doing.
        os._exit(0)


def void(_: object) -> None:
    """Drop a value where only the act counts."""


class Forward(logging.Handler):
    """Sends lines to the parent, whose log they belong in."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._pipe.send(Logged(record.name, record.levelno, self.format(record)))


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of a socket until it hangs up."""
    _end_with_the_parent()
    pipe = Pipe(socket.socket(fileno=descriptor))
    try:
        begin: Begin = pipe.receive()
        logging.getLogger().addHandler(Forward(pipe))
        logging.getLogger().setLevel(begin.level)
        Child(pipe, begin).run()
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end_with_the_parent() -> None:
    # The parent says when to end: an interrupt on the terminal reaches both, and it has answers to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # The end of the socket tells as much, unless native code never lets Python look.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


if __name__ == "__main__":
    # By its own name: what is pickled here must be found there.
    from illm.backends.local.child import main as entry

    entry(int(sys.argv[1]))
