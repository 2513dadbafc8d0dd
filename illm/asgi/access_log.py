"""One log line a request: who answered, how long it took, how many tokens; no prompt, no answer, no key.

A line goes out as text and, for formatters (JSON), as `record.illm`.  Where our own handler is the only one that
listens the lines of some moments are written together (`illm.log`).
"""

import logging
import time
from dataclasses import dataclass
from time import monotonic
from typing import Any

import anyio
import orjson

from illm import log
from illm.core.requests import Request
from illm.loop.wake import Wake

TICK = 0.1
"""Seconds that a line may wait."""

logger = logging.getLogger("illm.access")


@dataclass(slots=True)
class Record:
    """What is known of one request so far; times are `time.monotonic()` seconds, durations seconds."""

    request_id: str
    method: str
    began: float
    route: str = "-"
    status: int = 0
    backend: str | None = None
    model: str | None = None
    queue: float | None = None
    ttft: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    level: int = logging.INFO
    created: float = 0.0
    """When it ended, `time.time()` seconds."""
    total: float = 0.0

    def asks(self, request: Request) -> None:
        """Note what a request named, for as long as nobody has been chosen to answer it."""
        self.backend, self.model = request.framework, request.model

    def fields(self) -> dict[str, Any]:
        """Return the fields that are known, in the order they are shown."""
        shown: dict[str, Any] = {
            "id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status or "gone",
        }
        if self.backend is not None:
            shown["backend"] = self.backend
        if self.model is not None:
            shown["model"] = self.model
        if self.queue is not None:
            shown["queue_s"] = round(self.queue, 6)
        if self.ttft is not None:
            shown["ttft_s"] = round(self.ttft, 6)
        if self.prompt_tokens is not None:
            shown["prompt_tokens"] = self.prompt_tokens
        if self.completion_tokens is not None:
            shown["completion_tokens"] = self.completion_tokens
        shown["total_s"] = round(self.total, 6)
        if self.error is not None:
            shown["error"] = self.error
        return shown

    def text(self) -> str:
        """Return the fields as one line."""
        return " ".join(
            [f"{name}={_plain(known) if type(known) is str else known}" for name, known in self.fields().items()]
        )

    def emit(self, journal: "Journal | None") -> None:
        """Write the line, or have it written soon."""
        if not logger.isEnabledFor(self.level):
            return
        self.total = monotonic() - self.began
        self.created = time.time()
        if journal is None or not journal.takes(self):
            logger.log(self.level, "%s", self.text(), extra={"illm": self.fields()})


class Journal:
    """Has the lines of one event loop written: at the first tick after them, and when the loop is done with them."""

    def __init__(self) -> None:
        self._due = self._over = False
        self._wake = Wake()

    def takes(self, record: Record) -> bool:
        """Keep a line for a moment; False where it must be written at once."""
        if self._over or not log.hold(record):
            return False
        if not self._due:
            self._due = True
            self._wake.set()
        return True

    async def run(self) -> None:
        """Write, until cancelled."""
        try:
            while True:
                while not self._due:
                    await self._wake.wait()
                await anyio.sleep(TICK)
                self._due = False
                log.flush()
        finally:
            self._over = True
            log.flush()


def _plain(text: str) -> str:
    # A model's name is the client's text: quoted where it could be taken for something else.
    if text.isalnum() and text.isascii():
        return text
    return text if text.isprintable() and " " not in text and "=" not in text else orjson.dumps(text).decode()
