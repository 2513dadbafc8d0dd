"""One log line a request: who answered, how long it took, how many tokens; no prompt, no answer, no key.

The record goes out twice: as the message (text), and as `record.illm` for formatters (JSON).
"""

import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any

import orjson

from illm.core.requests import Request

logger = logging.getLogger("illm.access")


@dataclass(slots=True, kw_only=True)
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

    def asks(self, request: Request) -> None:
        """Note what a request named, for as long as nobody has been chosen to answer it."""
        self.backend, self.model = request.framework, request.model

    def fields(self) -> dict[str, Any]:
        """Return the fields that are known, in the order they are shown."""
        everything = {
            "id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status or "gone",
            "backend": self.backend,
            "model": self.model,
            "queue_s": self.queue,
            "ttft_s": self.ttft,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_s": monotonic() - self.began,
            "error": self.error,
        }
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in everything.items()
            if value is not None
        }

    def emit(self) -> None:
        """Write the line."""
        if logger.isEnabledFor(self.level):
            fields = self.fields()
            line = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
            logger.log(self.level, "%s", line, extra={"illm": fields})


def _plain(value: Any) -> str:
    text = str(value)
    # A model's name is the client's text: quoted where it could be taken for something else.
    return text if text.isprintable() and " " not in text and "=" not in text else orjson.dumps(text).decode()
