"""Works without torch, for child processes: what a child is to load is found there by name."""

import ctypes
import logging
import os
import signal
import threading
from typing import Any

from illm.backends.local.frames import Note
from illm.backends.local.work import Batch
from illm.core.events import Finish
from illm.errors import GatewayError, Kind

from .fakes import DONE, Letters


class Bound(Letters):
    """Letters that know their process, and do a few things that no letters should."""

    def describe(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "running": len(self.running), "aborted": len(self.aborted)}

    def step(self) -> Batch:
        endless = [key for key, text in self.running.items() if text == "endless"]
        batch = super().step()
        self.running |= dict.fromkeys(endless, "endless")
        stop = Finish(0, "stop")
        return [(key, (*events[:-1], stop, DONE) if events[-1] == DONE else events) for key, events in batch]

    def add(self, key: int, prepared: str) -> None:
        if prepared == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if prepared == "raise":
            self.crash = RuntimeError("the device fell over")
        if prepared == "wedge":
            threading.Event().wait()
        if prepared == "hold":
            ctypes.PyDLL(None).sleep(1000)  # with the lock of the interpreter, as bad native code does
        super().add(key, prepared)


def letters(note: Note) -> Bound:
    note("loading letters")
    logging.getLogger("illm.local").info("letters are here")
    logging.getLogger("illm.local").debug("not of interest")
    return Bound()


def missing(note: Note) -> Bound:
    raise GatewayError(Kind.MODEL_LOAD_FAILED, "there are no letters", param="model")


def broken(note: Note) -> Bound:
    raise OSError("secret")
