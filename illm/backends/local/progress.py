"""How loading is shown: a line that rewrites itself on a terminal, a log line a stage elsewhere."""

import logging
import sys
from collections.abc import Callable

from illm.backends.local.conversion import Progress

logger = logging.getLogger("illm.local")


def report_to(note: Callable[[str], None]) -> Progress:
    """Return a progress callback that shows each stage, and hands its text to `note` (for `/healthz`)."""
    shown: str | None = None

    def report(text: str, part: float | None) -> None:
        nonlocal shown
        line = text if part is None else f"{text}: {part:.0%}"
        note(line)
        if sys.stderr.isatty():
            end = "\n" if part is None or part >= 1 else ""
            sys.stderr.write(f"\r\x1b[K{line}{end}")
            sys.stderr.flush()
        elif text != shown:
            logger.info("%s", text)
        shown = text

    return report
