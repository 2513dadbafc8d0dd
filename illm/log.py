"""Logging as text or JSON, to standard error.  Only the command line calls this: a host application has its own.

A line a request through the logging machinery costs more than the rest of the gateway does.  So entries that can write
themselves (`Entry`) are held back for a moment and written together, and before every other line, so that their order
is that of events.  Where other handlers listen nothing is held back: they get their records as ever.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import orjson

MOST_HELD = 1024
"""Entries that are written at once, whether or not it is time."""


class Entry(Protocol):
    """One line that was not made a `logging.LogRecord`; `created` is `time.time()` seconds."""

    created: float
    level: int

    def fields(self) -> dict[str, Any]:
        """Return what it says."""

    def text(self) -> str:
        """Return what it says, for people."""


class JSONFormatter(logging.Formatter):
    """One JSON object a line; a record's own fields (`record.illm`) stand beside the common ones."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        fields = getattr(record, "illm", None)
        line = _json_head(record.created, record.levelno, record.name)
        line.update(fields if fields is not None else {"message": record.getMessage()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _dumped(line)


_TEXT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines to standard error.

    Args:
        form: `text` or `json`.
        name: what held entries say they come from, as a logger's name.
    """

    def __init__(self, form: str, name: str) -> None:
        super().__init__()
        self.setFormatter(JSONFormatter() if form == "json" else _TEXT)
        self._line: Callable[[Entry, str], str] = _json_line if form == "json" else _text_line
        self._logger = name
        self._held: list[Entry] = []

    def hold(self, entry: Entry) -> None:
        """Keep an entry until the next `flush`, the next record, or the end of the process."""
        self._held.append(entry)
        if len(self._held) >= MOST_HELD:
            self.let_out()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._write_held()
        super().emit(record)

    def flush(self) -> None:
        """Write what is held.  `logging` calls it at exit, too."""
        self._write_held()
        super().flush()

    def let_out(self) -> None:
        """Write what is held, if anything is.  As with a record, a stream that takes nothing is nobody's failure."""
        if self._held:
            with self._forgiven():
                self.flush()

    def _write_held(self) -> None:
        if not self._held:
            return
        with self.lock, self._forgiven():  # type: ignore[union-attr]  # made by every handler's constructor
            held, self._held = self._held, []
            self.stream.write("".join([self._line(entry, self._logger) for entry in held]))

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # a full disk or a closed pipe must end neither a request nor the task that writes
            self.handleError(logging.LogRecord(self._logger, logging.INFO, __file__, 0, "", (), None))


_PACKAGE = logging.getLogger("illm")
_ACCESS = logging.getLogger("illm.access")
_lines: Lines | None = None


def configure(form: str, level: str) -> None:
    """Send the package's log to standard error.

    Args:
        form: `text` or `json`.
        level: the least severity shown.
    """
    global _lines
    flush()
    _lines = Lines(form, _ACCESS.name)
    _PACKAGE.handlers[:] = [_lines]
    _PACKAGE.setLevel(level.upper())
    _PACKAGE.propagate = False


def hold(entry: Entry) -> bool:
    """Keep an access entry, to be written soon by `flush`; False where others than our own handler listen."""
    handlers = _PACKAGE.handlers
    if (
        _lines is None
        or len(handlers) != 1
        or handlers[0] is not _lines
        or _PACKAGE.propagate
        or _ACCESS.handlers
        or _ACCESS.filters
    ):
        return False
    _lines.hold(entry)
    return True


def flush() -> None:
    """Write what is held."""
    if _lines is not None:
        _lines.let_out()


class _Clock:
    """A time's text, made once a second."""

    def __init__(self, form: Callable[[int], str]) -> None:
        self._form = form
        self._last: tuple[int, str] = (-1, "")

    def __call__(self, created: float) -> tuple[str, int]:
        """Return the text of the second, and the milliseconds."""
        second, text = int(created), self._last[1]
        if second != self._last[0]:
            text = self._form(second)
            self._last = second, text
        return text, int((created - second) * 1000)


_local = _Clock(lambda second: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second)))
_universal = _Clock(lambda second: datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))


def _text_line(entry: Entry, logger: str) -> str:
    second, thousandths = _local(entry.created)
    return f"{second},{thousandths:03d} {logging.getLevelName(entry.level)} {logger}: {entry.text()}\n"


def _json_line(entry: Entry, logger: str) -> str:
    return f"{_dumped(_json_head(entry.created, entry.level, logger) | entry.fields())}\n"


def _json_head(created: float, level: int, logger: str) -> dict[str, Any]:
    second, thousandths = _universal(created)
    return {
        "time": f"{second}.{thousandths:03d}+00:00",
        "level": logging.getLevelName(level).lower(),
        "logger": logger,
    }


def _dumped(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8: escaped instead
        return json.dumps(line, default=str)
