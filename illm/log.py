"""Logging as text or JSON, to standard error.  Only the command line calls this: a host application has its own."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import orjson


class JSONFormatter(logging.Formatter):
    """One JSON object a line; a record's own fields (`record.illm`) stand beside the common ones."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "illm", None)
        line.update(fields if fields is not None else {"message": record.getMessage()})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8: escaped instead
            return json.dumps(line, default=str)


_TEXT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


def configure(form: str, level: str) -> None:
    """Send the package's log to standard error.

    Args:
        form: `text` or `json`.
        level: the least severity shown.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if form == "json" else _TEXT)
    logger = logging.getLogger("illm")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
